"""A container registry on 127.0.0.1 that takes what `docker push` sends, in memory, and gives
manifests out again.

Of OCI's distribution specification it has uploads in pieces, the check that a blob is there, and
manifests by tag and by digest. A blob whose bytes are not those of its digest is refused.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.doubles.network import Answering
from tests.doubles.served import Served


class ImageRegistry(Served):
    """The server; close it when done."""

    def __init__(self) -> None:
        self.blobs: dict[str, int] = {}
        """Digest → bytes: sizes alone are kept."""
        self.manifests: dict[str, tuple[str, bytes]] = {}
        """`name@digest` and `name:tag` → kind, text."""
        self.uploads: dict[str, Any] = {}
        self.serve(type("Handler", (_Handler,), {"registry": self}))


class _Handler(Answering):
    registry: ImageRegistry

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/v2/":
            return self.answer(200, {})
        if "/manifests/" in path:
            return self._manifest(path)
        known = path.rpartition("/")[2] in self.registry.blobs
        return (
            self._head(200, self.registry.blobs[path.rpartition("/")[2]])
            if known
            else self._head(404, 0)
        )

    do_HEAD = do_GET

    def do_POST(self) -> None:
        identity = str(uuid.uuid4())
        self.registry.uploads[identity] = [hashlib.sha256(), 0]
        self._accepted(identity)

    def do_PATCH(self) -> None:
        identity = urlsplit(self.path).path.rpartition("/")[2]
        for piece in self._body():
            self.registry.uploads[identity][0].update(piece)
            self.registry.uploads[identity][1] += len(piece)
        self._accepted(identity)

    def do_PUT(self) -> None:
        place = urlsplit(self.path)
        body = b"".join(self._body())
        if "/manifests/" in place.path:
            name, _, reference = place.path.removeprefix("/v2/").partition(
                "/manifests/"
            )
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            for key in (f"{name}:{reference}", f"{name}@{digest}"):
                self.registry.manifests[key] = self.headers["Content-Type"], body
            return self.answer(
                201, {}, Docker_Content_Digest=digest, Location=self.path
            )
        digest = parse_qs(place.query)["digest"][0]
        hashed, size = self.registry.uploads.pop(place.path.rpartition("/")[2])
        if f"sha256:{hashed.hexdigest()}" != digest:
            return self.answer(400, {"errors": [{"code": "DIGEST_INVALID"}]})
        self.registry.blobs[digest] = size
        return self.answer(201, {}, Docker_Content_Digest=digest, Location=self.path)

    def _manifest(self, path: str) -> None:
        name, _, reference = path.removeprefix("/v2/").partition("/manifests/")
        found = self.registry.manifests.get(
            f"{name}{'@' if ':' in reference else ':'}{reference}"
        )
        if found is None:
            return self._head(404, 0)
        kind, body = found
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        self._head(200, len(body), Content_Type=kind, Docker_Content_Digest=digest)
        if self.command == "GET":
            self.wfile.write(body)
        return None

    def _head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _accepted(self, identity: str) -> None:
        name = urlsplit(self.path).path.partition("/blobs/")[0]
        end = max(0, self.registry.uploads[identity][1] - 1)
        place = f"http://{self.registry.host}{name}/blobs/uploads/{identity}"
        self.answer(
            202, b"", Location=place, Docker_Upload_UUID=identity, Range=f"0-{end}"
        )

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length", "0")))
            return
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
