"""Images that no pod could pull are found before a run begins."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from components.cli.doctor.findings import Finding
from components.cli.doctor.image_checks import image_checks
from tests.doubles.served import Served

DIGEST = f"sha256:{'a' * 64}"
LOGIN = base64.b64encode(b"me:a-password").decode()


class Registry(Served):
    """A registry with one image, and a token server, on 127.0.0.1."""

    def __init__(self) -> None:
        self.needs = ""
        """Login that its token server wants; empty: anybody gets a token."""
        self.private = False
        self.served = DIGEST
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                right = self.headers.get("Authorization", "")
                if self.path.startswith("/token"):
                    granted = not registry.needs or right == f"Basic {registry.needs}"
                    return self.answer(
                        200 if granted else 401,
                        json.dumps({"token": "t"} if granted else {}).encode(),
                    )
                if registry.private and right != "Bearer t":
                    realm = f'Bearer realm="{registry.endpoint}/token",service="r",scope="repository:team/cpu:pull"'
                    return self.answer(401, WWW_Authenticate=realm)
                if self.path != f"/v2/team/cpu/manifests/{DIGEST}":
                    return self.answer(404)
                return self.answer(200, Docker_Content_Digest=registry.served)

            do_HEAD = do_GET

            def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.serve(Handler)


@pytest.fixture
def registry() -> Iterator[Registry]:
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    one = Registry()
    yield one
    one.close()


def image(reference: str, **environment: str) -> Finding:
    [one] = image_checks({"decide": reference, "report": reference}, environment)
    return one


def test_an_image_is_looked_up_by_its_digest(registry: Registry) -> None:
    assert image(f"{registry.host}/team/cpu@{DIGEST}").status == "ok"
    registry.private = True
    assert image(f"{registry.host}/team/cpu@{DIGEST}").status == "ok"


def test_a_digest_that_the_registry_does_not_have_is_named(registry: Registry) -> None:
    other = f"sha256:{'b' * 64}"
    one = image(f"{registry.host}/team/cpu@{other}")
    assert (
        one.status,
        "has no team/cpu@sha256:bbb" in one.found,
        "push it" in one.cure,
    ) == (
        "failed",
        True,
        True,
    )
    registry.served = other
    assert image(f"{registry.host}/team/cpu@{DIGEST}").status == "failed"


def test_a_login_is_used_and_a_missing_one_is_said(
    registry: Registry, tmp_path: Path
) -> None:
    registry.private, registry.needs = True, LOGIN
    one = image(f"{registry.host}/team/cpu@{DIGEST}", HOME=str(tmp_path))
    assert (one.status, "pull_secrets" in one.cure) == ("warning", True)
    (tmp_path / "config.json").write_text(
        json.dumps({"auths": {registry.host: {"auth": LOGIN}}})
    )
    assert (
        image(f"{registry.host}/team/cpu@{DIGEST}", DOCKER_CONFIG=str(tmp_path)).status
        == "ok"
    )


def test_images_that_cannot_be_looked_up_are_said() -> None:
    assert image(f"127.0.0.1:9/team/cpu@{DIGEST}").status == "failed"
    assert image("127.0.0.1:9/team/cpu@sha256:12").found.endswith("is no digest")
    one = image("ratchet/cpu:dev")
    assert (one.status, "decide, report" in one.found, "digest" in one.cure) == (
        "warning",
        True,
        True,
    )
