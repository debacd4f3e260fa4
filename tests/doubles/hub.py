"""A model hub in memory: repositories with commits, tags and files of the large file storage.

By the hub's API as its client `huggingface_hub` 2.4 uses it: uploads are announced, sent, and named
by one commit; a commit without changes is not asked for.
"""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.doubles.network import Answering
from tests.doubles.served import Served

Json = dict[str, Any]
Answer = tuple[int, Json | bytes]
TOKEN = "hf_a-token-that-no-message-may-show"


class Hub(Served):
    """The server; close it when done."""

    def __init__(self) -> None:
        self.trees: dict[str, dict[str, bytes]] = {}
        """Repository → path → bytes, at the newest commit."""
        self.commits: dict[str, list[str]] = {}
        """Repository → messages of its commits, oldest first."""
        self.tags: dict[str, dict[str, str]] = {}
        """Repository → tag → commit."""
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        """SHA-256 → bytes that were sent."""
        self.requests: list[tuple[str, str]] = []
        self.fail_at: tuple[int, int] | None = None
        """Number of a request, from 0, and the status that it and all after it get."""
        self.serve(self._handler())

    def commit_of(self, repository: str) -> str:
        """The id of the newest commit."""
        messages = "\n".join(self.commits[repository])
        return hashlib.sha1(f"{repository}\n{messages}".encode()).hexdigest()

    def carry_out(self, method: str, path: str, body: bytes, host: str) -> Answer:
        """The answer to a request, after its effect."""
        match method, path.strip("/").split("/"):
            case "POST", ["api", "repos", "create"]:
                return self._create(json.loads(body))
            case "POST", ["api", "validate-yaml"]:
                return 200, {"errors": [], "warnings": []}
            case "PUT", ["large", sha256]:
                assert hashlib.sha256(body).hexdigest() == sha256
                self.large[sha256] = body
                return 200, {}
            case "POST", [owner, name, "info", "lfs", "objects", "batch"]:
                assert name.endswith(".git")
                return self._batch(json.loads(body), host)
            case _, ["api", "models", owner, name, *rest]:
                repository = f"{owner}/{name}"
                if repository not in self.trees:
                    return 404, {"error": "Repository not found"}
                return self._of_repository(repository, rest, body)
        return 404, {"error": f"no such page: {method} {path}"}

    def _create(self, body: Json) -> Answer:
        repository = f"{body['organization']}/{body['name']}"
        if body["organization"] == "strangers":
            return 403, {"error": "You don't have the rights to create a model there"}
        url = {"url": f"{self.endpoint}/{repository}"}
        if repository in self.trees:
            return 409, {**url, "error": "You already created this model repo"}
        self.trees[repository] = {".gitattributes": b"*.safetensors filter=lfs"}
        self.commits[repository] = ["initial commit"]
        self.tags[repository] = {}
        self.private[repository] = body["visibility"] == "private"
        return 200, url

    def _batch(self, body: Json, host: str) -> Answer:
        objects = []
        for entry in body["objects"]:
            href = f"http://{host}/large/{entry['oid']}"
            actions = (
                {}
                if entry["oid"] in self.large
                else {"actions": {"upload": {"href": href}}}
            )
            objects.append({"oid": entry["oid"], "size": entry["size"], **actions})
        return 200, {"transfer": "basic", "objects": objects}

    def _of_repository(self, repository: str, rest: list[str], body: bytes) -> Answer:
        match rest:
            case [] | ["revision", "main"]:
                siblings = [{"rfilename": name} for name in self.trees[repository]]
                commit = self.commit_of(repository)
                return 200, {"id": repository, "sha": commit, "siblings": siblings}
            case ["tree", "main"]:
                files = [
                    {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                    for name, data in self.trees[repository].items()
                ]
                return 200, json.dumps(files).encode()
            case ["preupload", "main"]:
                files = json.loads(body)["files"]
                return 200, {
                    "files": [self._mode(repository, one["path"]) for one in files]
                }
            case ["commit", "main"]:
                return self._commit(
                    repository, [json.loads(line) for line in body.splitlines()]
                )
            case ["tag", revision]:
                tag = json.loads(body)["tag"]
                if tag in self.tags[repository]:
                    return 409, {"error": "Tag already exists"}
                self.tags[repository][tag] = revision
                return 200, {}
        return 404, {"error": f"no such page: {rest}"}

    def _mode(self, repository: str, path: str) -> Json:
        is_large = path.endswith(".safetensors")
        there = self.trees[repository].get(path)
        oid = None
        if there is not None:
            blob = hashlib.sha1(b"blob %d\0" % len(there) + there).hexdigest()
            oid = hashlib.sha256(there).hexdigest() if is_large else blob
        mode = "lfs" if is_large else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _commit(self, repository: str, lines: list[Json]) -> Answer:
        tree = dict(self.trees[repository])
        message = ""
        for line in lines:
            entry = line["value"]
            match line["key"]:
                case "header":
                    message = entry["summary"]
                case "file":
                    tree[entry["path"]] = base64.b64decode(entry["content"])
                case "lfsFile":
                    tree[entry["path"]] = self.large[entry["oid"]]
                case "deletedFile":
                    del tree[entry["path"]]
        self.trees[repository] = tree
        self.commits[repository].append(message)
        commit = self.commit_of(repository)
        url = f"{self.endpoint}/{repository}/commit/{commit}"
        return 200, {"success": True, "commitOid": commit, "commitUrl": url}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(Answering):
            def _serve(self) -> None:
                body = self.sent_bytes()
                number = len(hub.requests)
                path = urlsplit(self.path).path
                hub.requests.append((self.command, path))
                if hub.fail_at is not None and number >= hub.fail_at[0]:
                    self.answer(hub.fail_at[1], {"error": "told to"})
                    return
                is_large = path.startswith("/large/")
                if (
                    not is_large
                    and self.headers.get("Authorization") != f"Bearer {TOKEN}"
                ):
                    self.answer(401, {"error": "Invalid credentials"})
                    return
                host = self.headers["Host"]
                self.answer(*hub.carry_out(self.command, path, body, host))

            do_GET = do_HEAD = do_POST = do_PUT = _serve

        return Handler
