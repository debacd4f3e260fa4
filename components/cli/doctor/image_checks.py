"""What `doctor` can know of images without an engine: whether the registry has each, by its digest."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.cli.doctor.findings import Finding, guarded
from components.errors import UserError

KINDS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
LIMITS = (5.0, 15.0)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def image_checks(images: Mapping[str, str], environment: Mapping[str, str]) -> Iterator[Finding]:
    """One finding an image. Those without a digest are not asked for: a node would take whatever
    has the tag."""
    for image in sorted(set(images.values())):
        steps = ", ".join(step for step, one in images.items() if one == image)
        if "@" in image:
            look = partial(_look, image, environment)
            yield guarded(f"image {image.partition('@')[0]}", look)
        else:
            yield Finding(
                f"image {image}",
                "warning",
                f"has no digest ({steps})",
                "push it: `make images REGISTRY=…` records digests",
            )


def _look(image: str, environment: Mapping[str, str]) -> Finding:
    import requests

    name, _, digest = image.partition("@")
    check = f"image {name}"
    if not _DIGEST.fullmatch(digest):
        raise UserError(f"{image}: {digest!r} is no digest; correct docker/images.toml")
    host, repository = _place(name)
    scheme = "http" if re.fullmatch(r"(localhost|127\.0\.0\.1)(:\d+)?", host) else "https"
    url = f"{scheme}://{host}/v2/{repository}/manifests/{digest}"
    login = _login(host, environment)
    try:
        answer = requests.head(url, headers={"Accept": KINDS}, timeout=LIMITS, allow_redirects=True)
        if answer.status_code == 401:
            right = _right(answer.headers.get("WWW-Authenticate", ""), login)
            answer = requests.head(
                url, headers={"Accept": KINDS, **right}, timeout=LIMITS, allow_redirects=True
            )
    except (requests.RequestException, ValueError) as error:
        raise UserError(
            f"{host} cannot be reached ({type(error).__name__}); check the network, or docker/images.toml"
        ) from None
    match answer.status_code:
        case 200:
            served = answer.headers.get("Docker-Content-Digest", digest)
            if served != digest:
                raise UserError(
                    f"{host} answers with {served} for {digest}; it is no registry to be trusted"
                )
            return Finding(check, "ok", f"{host} has {digest[:19]}…")
        case 404:
            raise UserError(
                f"{host} has no {repository}@{digest[:19]}…; push it, or correct docker/images.toml"
            )
        case 401 | 403:
            return Finding(
                check,
                "warning",
                f"{host} does not show it without a login ({answer.status_code})",
                "name the pull secret of the pods in the profile (pull_secrets); `docker login` lets doctor look",
            )
    raise UserError(f"{host} answers {answer.status_code}; try again, or check the registry")


def _place(name: str) -> tuple[str, str]:
    """(host, repository) as engines read an image's name."""
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return "registry-1.docker.io", name if slash else f"library/{name}"


def _right(challenge: str, login: str) -> dict[str, str]:
    """The header that a registry asks for: a token from where it says, or the login itself."""
    import requests

    basic = {"Authorization": f"Basic {login}"} if login else {}
    if not challenge.lower().startswith("bearer "):
        return basic
    words = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = words.pop("realm", "")
    if not realm.startswith("https://") and urlsplit(realm).hostname not in (
        "127.0.0.1",
        "localhost",
    ):
        return {}  # a login is not sent in the clear
    found: Any = requests.get(realm, params=words, headers=basic, timeout=LIMITS).json()
    token = found.get("token") or found.get("access_token") if isinstance(found, dict) else None
    return {"Authorization": f"Bearer {token}"} if token else {}


def _login(host: str, environment: Mapping[str, str]) -> str:
    """What `docker login` kept for a registry, base64 of user:password; empty without one."""
    folder = environment.get("DOCKER_CONFIG") or f"{environment.get('HOME', '')}/.docker"
    try:
        known = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["auths"]
        key = "https://index.docker.io/v1/" if host == "registry-1.docker.io" else host
        login = str(known[key]["auth"])
        base64.b64decode(login, validate=True)
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return login
