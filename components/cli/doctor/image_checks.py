"""Checks of the images without an engine: whether the registry has each, by its digest.

The registry is asked by the protocol of the OCI distribution specification.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from components.cli.doctor.findings import Finding, guarded
from components.errors import UserError

# Without these a registry may answer with an older kind of manifest, which has another digest.
MANIFEST_TYPES = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
CONNECT_AND_ANSWER_SECONDS = (5.0, 15.0)
DOCKER_HUB = "registry-1.docker.io"
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1)(:\d+)?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def image_checks(
    images: Mapping[str, str], environment: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield a finding for each image.

    Args:
        images: Step → image.
        environment: Says where `docker login` keeps its logins.
    """
    for image in sorted(set(images.values())):
        if "@" in image:
            name, _, _ = image.partition("@")
            look = partial(_look_up, image, environment)
            yield guarded(f"image {name}", look)
            continue
        # Not asked for: a node would take whatever has the tag by then.
        steps = ", ".join(
            step for step, step_image in images.items() if step_image == image
        )
        cure = "push it: `make images REGISTRY=…` records digests"
        yield Finding(f"image {image}", "warning", f"has no digest ({steps})", cure)


def _look_up(image: str, environment: Mapping[str, str]) -> Finding:
    name, _, digest = image.partition("@")
    if not _DIGEST.fullmatch(digest):
        raise UserError(f"{image}: {digest!r} is no digest; correct docker/images.toml")
    host, repository = _split_name(name)
    status, served_digest = _ask(host, repository, digest, environment)
    short_digest = f"{digest[:19]}…"
    match status:
        case 200 if served_digest != digest:
            raise UserError(
                f"{host} answers with {served_digest} for {digest}; it is no registry to be trusted"
            )
        case 200:
            return Finding(f"image {name}", "ok", f"{host} has {short_digest}")
        case 404:
            raise UserError(
                f"{host} has no {repository}@{short_digest}; push it, or correct docker/images.toml"
            )
        case 401 | 403:
            return Finding(
                f"image {name}",
                "warning",
                f"{host} does not show it without a login ({status})",
                "name the pull secret of the pods in the profile (pull_secrets); `docker login` "
                "lets doctor look",
            )
    raise UserError(f"{host} answers {status}; try again, or check the registry")


def _ask(
    host: str, repository: str, digest: str, environment: Mapping[str, str]
) -> tuple[int, str]:
    """Return the HTTP status for a manifest, and the digest that the registry says it serves."""
    import requests

    # Engines, too, speak plain HTTP to a registry on this machine alone.
    scheme = "http" if _LOOPBACK.fullmatch(host) else "https"
    head = partial(
        requests.head,
        f"{scheme}://{host}/v2/{repository}/manifests/{digest}",
        timeout=CONNECT_AND_ANSWER_SECONDS,
        allow_redirects=True,
    )
    login = _saved_login(host, environment)
    headers = {"Accept": MANIFEST_TYPES}
    try:
        response = head(headers=headers)
        # Even public images may ask for a token, which everybody gets.
        if response.status_code == 401:
            challenge = response.headers.get("WWW-Authenticate", "")
            response = head(headers=headers | _authorization(challenge, login))
    except (requests.RequestException, ValueError) as error:
        raise UserError(
            f"{host} cannot be reached ({type(error).__name__}); check the network, or "
            "docker/images.toml"
        ) from None
    return response.status_code, response.headers.get("Docker-Content-Digest", digest)


def _split_name(name: str) -> tuple[str, str]:
    """Return (host, repository) as engines read an image's name."""
    first_part, slash, repository = name.partition("/")
    is_host = "." in first_part or ":" in first_part or first_part == "localhost"
    if slash and is_host:
        return first_part, repository
    return DOCKER_HUB, name if slash else f"library/{name}"


def _authorization(challenge: str, login: str) -> dict[str, str]:
    """Return the header that a registry asks for.

    Args:
        challenge: Its WWW-Authenticate, which names where a token is to be had.
        login: base64 of user:password; empty: none.
    """
    import requests

    basic = {"Authorization": f"Basic {login}"} if login else {}
    if not challenge.lower().startswith("bearer "):
        return basic
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = fields.pop("realm", "")
    is_loopback = urlsplit(realm).hostname in ("127.0.0.1", "localhost")
    # A login is not sent in the clear.
    if not realm.startswith("https://") and not is_loopback:
        return {}
    response = requests.get(
        realm, params=fields, headers=basic, timeout=CONNECT_AND_ANSWER_SECONDS
    )
    document = response.json()
    if not isinstance(document, dict):
        return {}
    # The field is named differently in Docker's specification and in OAuth 2.
    token = document.get("token") or document.get("access_token")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _saved_login(host: str, environment: Mapping[str, str]) -> str:
    """Return the login that `docker login` saved for a registry, base64 of user:password, or ""."""
    home = environment.get("HOME", "")
    folder = environment.get("DOCKER_CONFIG") or f"{home}/.docker"
    # Docker Hub's logins stand under an address of its own.
    key = "https://index.docker.io/v1/" if host == DOCKER_HUB else host
    try:
        text = Path(folder, "config.json").read_text(encoding="utf-8")
        logins = json.loads(text)["auths"]
        login = str(logins[key]["auth"])
        base64.b64decode(login, validate=True)
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return login
