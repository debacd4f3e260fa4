"""A hub that fails for now is asked again for a while and is no mistake of the user's; one that
refuses is."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.errors import Transient, UserError
from components.retry import Patience
from components.storage.sources import FOLDER_SUFFIXES, local_folder
from components.storage.sources_hub import HubPath, hf_file, hf_folder
from tests.doubles.hub import TOKEN, Hub
from tests.doubles.network import Answering
from tests.doubles.served import Served

MODEL = HubPath("model", "org/name", "v1", "")
URI = "hf://org/name@v1"
ONCE = Patience(give_up_seconds=0.0)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def rude_port() -> Iterator[int]:
    """Of a server that closes each connection without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.recv(10_000)
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        port: int = listener.getsockname()[1]
        yield port
        listener.shutdown(socket.SHUT_RDWR)


def settings(endpoint: str, cache: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_TOKEN": TOKEN}


def folder_from(endpoint: str, cache: Path, patience: Patience = ONCE) -> Path:
    return hf_folder(URI, MODEL, settings(endpoint, cache), FOLDER_SUFFIXES, patience)


def file_from(endpoint: str, cache: Path) -> Path:
    place = MODEL._replace(path="rows.jsonl")
    return hf_file(f"{URI}/rows.jsonl", place, settings(endpoint, cache), ONCE)


class Repository(Served):
    """A hub with one file, `config.json`, in one repository; its first answers are 503."""

    COMMIT = "a" * 40
    CONTENT = b'{"model_type": "llama"}'

    def __init__(self, num_failures: int) -> None:
        self.failures_left = num_failures
        self.serve(self._handler())

    def _handler(self) -> type[Answering]:
        repository = self

        class Handler(Answering):
            def _serve(self) -> None:
                if repository.failures_left:
                    repository.failures_left -= 1
                    self.answer(503, {"error": "told to"})
                elif "/resolve/" in self.path:
                    headers = {"ETag": '"e"', "X_Repo_Commit": repository.COMMIT}
                    self.answer(200, repository.CONTENT, **headers)
                elif "/tree/" in self.path:
                    size = len(repository.CONTENT)
                    file = {
                        "type": "file",
                        "path": "config.json",
                        "size": size,
                        "oid": "e",
                    }
                    self.answer(200, json.dumps([file]).encode())
                else:
                    siblings = [{"rfilename": "config.json"}]
                    document = {
                        "id": "org/name",
                        "sha": repository.COMMIT,
                        "siblings": siblings,
                    }
                    self.answer(200, document)

            do_GET = do_HEAD = _serve

        return Handler


def test_what_a_hub_has_is_fetched_once_it_answers(tmp_path: Path) -> None:
    server = Repository(num_failures=2)
    patience = Patience(give_up_seconds=30.0, sleep=lambda seconds: None)
    try:
        folder = folder_from(server.endpoint, tmp_path, patience)
        assert (folder / "config.json").read_bytes() == Repository.CONTENT
        assert server.failures_left == 0
        file = hf_file(
            f"{URI}/config.json",
            MODEL._replace(path="config.json"),
            settings(server.endpoint, tmp_path),
            ONCE,
        )
        assert file.read_bytes() == Repository.CONTENT
    finally:
        server.close()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 529])
def test_a_hub_that_fails_for_now_may_be_asked_later(
    hub: Hub, status: int, tmp_path: Path
) -> None:
    hub.fail_at = (0, status)
    with pytest.raises(Transient, match=rf"{URI}: the hub cannot be reached.*{status}"):
        folder_from(hub.endpoint, tmp_path)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_hub_that_refuses_is_told_as_that_at_once(
    hub: Hub, status: int, tmp_path: Path
) -> None:
    hub.fail_at = (0, status)
    for fetch in (folder_from, file_from):
        with pytest.raises(
            UserError, match=rf"{URI}.*: cannot be fetched.*use file://"
        ) as refused:
            fetch(hub.endpoint, tmp_path)
        assert TOKEN not in str(refused.value)


def test_a_hub_that_is_not_there_may_be_there_later(
    closed_port: int, rude_port: int, tmp_path: Path
) -> None:
    with pytest.raises(Transient, match=f"{URI}: .*ConnectError: .*refused"):
        folder_from(f"http://127.0.0.1:{closed_port}", tmp_path)
    # A name that nobody may ever register.
    with pytest.raises(Transient, match=f"{URI}: .*ConnectError"):
        folder_from("http://hub.invalid", tmp_path)
    with pytest.raises(Transient, match=f"{URI}: .*RemoteProtocolError"):
        folder_from(f"http://127.0.0.1:{rude_port}", tmp_path)


def test_a_hub_that_says_nothing_is_not_waited_for_without_end(tmp_path: Path) -> None:
    # Connections are made, and nobody ever answers.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        soon = Patience(give_up_seconds=0.0, answer_seconds=0.1)
        with pytest.raises(Transient, match=f"{URI}: .*ReadTimeout"):
            folder_from(f"http://127.0.0.1:{port}", tmp_path, soon)


def test_a_file_of_a_hub_that_is_not_there_may_be_there_later(
    closed_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client's own pauses, of 23 s.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(
        Transient, match=rf"{URI}/rows.jsonl: .*ConnectError: .*refused"
    ):
        file_from(f"http://127.0.0.1:{closed_port}", tmp_path)


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:9", "ftp://127.0.0.1:9", "hub", "//hub"]
)
def test_an_address_that_is_none_is_a_mistake(endpoint: str, tmp_path: Path) -> None:
    for fetch in (folder_from, file_from):
        with pytest.raises(UserError, match=f"{URI}.*: cannot be fetched.*HF_ENDPOINT"):
            fetch(endpoint, tmp_path)


def test_a_server_that_speaks_no_tls_is_a_mistake(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be fetched"):
        folder_from(hub.endpoint.replace("http:", "https:"), tmp_path)


def test_a_hub_that_comes_back_is_used(hub: Hub, tmp_path: Path) -> None:
    hub.fail_at = (0, 503)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            hub.fail_at = (0, 404)

    patience = Patience(give_up_seconds=30.0, clock=lambda: sum(pauses), sleep=sleep)
    # Reached at last, it has no such model.
    with pytest.raises(UserError, match="cannot be fetched"):
        folder_from(hub.endpoint, tmp_path, patience)
    assert pauses == [1.0, 2.0, 4.0]
    hub.fail_at = (0, 503)
    with pytest.raises(Transient):
        folder_from(hub.endpoint, tmp_path, patience)
    assert sum(pauses) <= 7.0 + 30.0


def test_the_network_is_not_waited_for_where_it_is_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be fetched"):
        local_folder(URI, settings("http://127.0.0.1:9", tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("uri", "revision"),
    [("hf://gpt2@main", "main"), ("hf://org/name@refs/pr/1", "refs/pr/1")],
)
def test_old_names_and_revisions_of_pull_requests_are_known(
    uri: str, revision: str, hub: Hub, tmp_path: Path
) -> None:
    # Looked for under the whole revision.
    with pytest.raises(UserError, match="cannot be fetched"):
        local_folder(uri, settings(hub.endpoint, tmp_path), tmp_path)
    assert any(revision.replace("/", "%2F") in path for _, path in hub.requests)
