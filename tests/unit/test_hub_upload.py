"""`upload` puts the release in force into a repository of the hub, whole and once."""

from __future__ import annotations

import dataclasses
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.cli.hub_upload import Uploaded, upload
from components.contracts.releases import Line
from components.errors import Corrupt, RatchetError, Transient, UserError
from components.retry import Patience
from components.runtime import ledger
from components.runtime.attempts import Task
from components.runtime.context import Context
from components.runtime.receipts import commit_once
from tests.doubles.hub import TOKEN, Hub
from tests.unit.announced import NAME, release
from tests.unit.crafted import Plain

TARGET = "hf://org/model"
REPOSITORY = "org/model"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in of the hub, which takes large files by Git LFS and knows no Xet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def here(context: Context, hub: Hub) -> Context:
    """The surroundings of a verb that speaks to the hub."""
    return dataclasses.replace(
        context, environment={"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}
    )


def released(context: Context, number: int, **files: str) -> Line:
    """The n-th release, with these files: names have `_` for a point."""

    def work(folder: Path) -> Plain:
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text)
        return Plain({})

    task = Task(run_id="crafted-run", name="publish", round=0)
    receipt = commit_once(
        context, task, "publish", config={"n": number}, inputs={}, seed=0, work=work
    )
    digests = {name: ref.sha256 for name, ref in receipt.objects.items()}
    line = release(
        number, publish=receipt.ref, publish_digest=receipt.digest, files=digests
    )
    for name in files:
        context.store.put_bytes(line.prefix + name.replace("_", "."), b"")
    assert ledger.append_line(context, line)
    return line


def test_a_release_is_one_commit_and_a_tag_and_the_next_replaces_it(
    here: Context, hub: Hub
) -> None:
    first = released(here, 1, model_safetensors="w1", config_json="{}", old_txt="x")
    assert upload(here, NAME, TARGET) == Uploaded(
        uri=f"{TARGET}@{first.version}", version=first.version, line=1, changed=True
    )
    assert hub.private[REPOSITORY] is True
    assert hub.tags[REPOSITORY] == {first.version: hub.commit_of(REPOSITORY)}
    sent = len(hub.requests)
    assert upload(here, NAME, TARGET).changed is False
    assert ("POST", f"/api/models/{REPOSITORY}/commit/main") not in hub.requests[sent:]
    second = released(here, 2, model_safetensors="w2", config_json="{}")
    assert upload(here, NAME, TARGET).changed is True
    files = {
        name: data
        for name, data in hub.trees[REPOSITORY].items()
        if name != ".gitattributes"
    }
    assert files == {"model.safetensors": b"w2", "config.json": b"{}"}
    assert hub.commits[REPOSITORY][1:] == [
        f"Release 1 of {NAME}: {first.version}",
        f"Release 2 of {NAME}: {second.version}",
    ]
    # After a rollback the repository has the files in force; the tag stays where it was.
    tags = dict(hub.tags[REPOSITORY])
    back = {"number": 3, "action": "rollback", "returns_to": 1}
    assert ledger.append_line(here, first.model_copy(update=back))
    assert upload(here, NAME, TARGET).version == first.version
    assert hub.trees[REPOSITORY]["model.safetensors"] == b"w1"
    assert hub.tags[REPOSITORY] == tags


def test_a_failure_at_any_request_leaves_a_whole_repository_and_the_command_goes_on(
    here: Context, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = released(here, 1, model_safetensors="w1", config_json="{}")
    upload(here, NAME, TARGET)
    before = dict(hub.trees[REPOSITORY])
    num_requests = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    second = released(here, 2, model_safetensors="w2", config_json="[]")
    for number in range(num_requests):
        hub.trees[REPOSITORY] = dict(before)
        hub.tags[REPOSITORY] = {first.version: "commit"}
        hub.large.clear()
        hub.requests.clear()
        hub.fail_at = (number, 403)
        with pytest.raises(RatchetError):
            upload(here, NAME, TARGET)
        whole = {
            name: hub.trees[REPOSITORY][name]
            for name in ("model.safetensors", "config.json")
        }
        assert whole in (
            {"model.safetensors": b"w1", "config.json": b"{}"},
            {"model.safetensors": b"w2", "config.json": b"[]"},
        )
        hub.fail_at = None
        upload(here, NAME, TARGET)
        assert hub.trees[REPOSITORY]["model.safetensors"] == b"w2"
        assert set(hub.tags[REPOSITORY]) == {first.version, second.version}


@pytest.mark.parametrize(
    "target",
    [
        "org/model",
        "hf://model",
        "hf://org/model@main",
        "hf://datasets/org/rows",
        "hf://",
        "hf://a/b/c",
        "https://huggingface.co/org/model",
        "hf://org/",
        "hf://../x",
        "hf://org/a b",
    ],
)
def test_a_target_that_is_no_repository_is_told(
    here: Context, hub: Hub, target: str
) -> None:
    released(here, 1, model_safetensors="w1")
    with pytest.raises(UserError, match=f"{re.escape(target)}: write hf://org/model"):
        upload(here, NAME, target)
    assert hub.requests == []


def test_what_the_hub_refuses_is_told_without_the_token(
    here: Context, hub: Hub
) -> None:
    released(here, 1, model_safetensors="w1")
    with pytest.raises(
        UserError, match=r"the hub refuses it .*set HF_TOKEN"
    ) as refused:
        upload(here, NAME, "hf://strangers/model")
    assert TOKEN not in str(refused.value)
    nobody = dataclasses.replace(
        here, environment={"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "x"}
    )
    with pytest.raises(UserError, match=r"the hub refuses it .*set HF_TOKEN"):
        upload(nobody, NAME, TARGET)
    away = dataclasses.replace(
        here, environment={"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": TOKEN}
    )
    with pytest.raises(Transient, match="the same command goes on"):
        upload(away, NAME, TARGET)
    with pytest.raises(UserError, match="nothing was released under the name 'other'"):
        upload(here, "other", TARGET)


def test_a_hub_that_says_nothing_is_not_waited_for_without_end(
    here: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(here, 1, model_safetensors="w1")
    soon = Patience(answer_seconds=0.1)
    monkeypatch.setattr("components.cli.hub_upload.PATIENCE", soon)
    # Connections are made, and nobody ever answers.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        environment = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_TOKEN": TOKEN}
        silent = dataclasses.replace(here, environment=environment)
        with pytest.raises(Transient, match="ReadTimeout"):
            upload(silent, NAME, TARGET)


def test_a_damaged_release_is_not_sent(here: Context, hub: Hub) -> None:
    line = released(here, 1, model_safetensors="w1")
    receipt = ledger.receipt_of(here, line)
    ref = receipt.objects["model.safetensors"]
    object_key = f"objects/{ref.sha256[:2]}/{ref.sha256}"
    here.store.put_bytes(object_key, b"xx")
    fresh = dataclasses.replace(here, cache=type(here.cache)(here.scratch / "another"))
    with pytest.raises(Corrupt):
        upload(fresh, NAME, TARGET)
    assert hub.requests == []
