"""Data and models of this machine reach a cluster: by their content, once, and never by surprise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from components.cli.cluster.inputs import refuse_local_inputs
from components.cli.cluster.uploads import MAX_BYTES, send_local_inputs
from components.errors import UserError
from components.storage.s3 import S3Store
from components.storage.sources import local_folder, local_path
from components.storage.store import open_store
from tests.conftest import S3Server

Json = dict[str, Any]


def recipe(*data: str, **sections: Any) -> Json:
    sources = [{"uri": uri} for uri in data]
    return {"data": {"sources": sources}, "model": {"source": "scratch"}, **sections}


def applied(document: Json, changes: list[str]) -> Json:
    """The recipe after these changes, as `--set` makes them."""
    for change in changes:
        key, _, value = change.partition("=")
        target: Any = document
        *parents, last = key.split(".")
        for name in parents:
            target = target[int(name) if isinstance(target, list) else name]
        target[last] = value
    return document


def test_what_this_machine_has_is_sent_once_and_read_from_the_store_as_it_was(
    s3_server: S3Server, tmp_path: Path
) -> None:
    rows, prose = tmp_path / "my rows (2).jsonl", tmp_path / "prose.txt"
    rows.write_text('{"prompt": "1+1", "answer": "2"}\n')
    prose.write_text("Human text.\n")
    model = tmp_path / "model"
    (model / "checkpoint-1").mkdir(parents=True)
    for name in (
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "checkpoint-1/a.json",
    ):
        (model / name).write_text(name)
    store, variables = s3_server.new_uri(), s3_server.environment
    document = recipe(rows.as_uri(), "~/prose.txt", model={"source": str(model)})

    def sent(lines: list[str]) -> Json:
        environment = {**variables, "HOME": str(tmp_path)}
        changes = send_local_inputs(document, store, environment, lines.append)
        copy = recipe(rows.as_uri(), "~/prose.txt", model={"source": str(model)})
        return applied(copy, changes)

    lines: list[str] = []
    first = sent(lines)
    assert len(lines) == 4
    assert all("sending" in line for line in lines)
    refuse_local_inputs(first)
    one, two = (source["uri"] for source in first["data"]["sources"])
    assert one.startswith(f"{store}/inputs/")
    assert one.endswith("/my_rows_2_.jsonl")
    assert local_path(one, variables, tmp_path / "a").read_bytes() == rows.read_bytes()
    assert local_path(two, variables, tmp_path / "b").read_bytes() == prose.read_bytes()
    # No pickle, and no checkpoint of the training that made the model.
    fetched = local_folder(first["model"]["source"], variables, tmp_path / "c")
    assert sorted(file.name for file in fetched.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]

    (tmp_path / "model.gguf").write_text("a whole model")
    whole = recipe(model={"source": str(tmp_path / "model.gguf")})
    uri = applied(whole, send_local_inputs(whole, store, variables, print))["model"][
        "source"
    ]
    assert uri.endswith("/model.gguf")
    assert local_path(uri, variables, tmp_path / "e").read_text() == "a whole model"

    again: list[str] = []
    assert sent(again) == first
    assert all(line.endswith("the store has it") for line in again)
    rows.write_text('{"prompt": "1+2", "answer": "3"}\n')
    assert sent([])["data"]["sources"][0]["uri"] != one
    assert local_path(one, variables, tmp_path / "d").is_file()


@pytest.mark.parametrize(
    ("name", "sent_name"),
    [
        ("数据.jsonl", "file_.jsonl"),
        (".hidden.csv", "file.hidden.csv"),
        ("-a..b.tsv", "file-a_b.tsv"),
        (f"{'x' * 150}.parquet", f"{'x' * 92}.parquet"),
        ("train.jsonl", "train.jsonl"),
    ],
)
def test_a_file_keeps_its_ending_whatever_its_name(
    s3_server: S3Server, tmp_path: Path, name: str, sent_name: str
) -> None:
    (tmp_path / name).write_text("{}\n")
    # By a link, as caches have them: the name is that of the link.
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / name).symlink_to(tmp_path / name)
    for file in (tmp_path / name, tmp_path / "links" / name):
        document = recipe(str(file))
        [change] = send_local_inputs(
            document, s3_server.new_uri(), s3_server.environment, print
        )
        assert change.rpartition("/")[2] == sent_name


def test_files_of_a_model_keep_their_names_or_are_refused(
    s3_server: S3Server, tmp_path: Path
) -> None:
    for name in ("config.json", "._config.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    document = recipe(model={"source": str(tmp_path)})
    lines: list[str] = []
    send_local_inputs(
        document, s3_server.new_uri(), s3_server.environment, lines.append
    )
    assert [line.partition(":")[0] for line in lines] == [
        str(tmp_path / "config.json"),
        str(tmp_path / "model.safetensors"),
    ]
    (tmp_path / "model (1).safetensors").write_text("another")
    with pytest.raises(UserError, match=r"model \(1\).safetensors' cannot be part"):
        send_local_inputs(document, "s3://bucket/nowhere", {}, print)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (recipe("missing.jsonl"), "data.sources.0.uri: .*missing.jsonl is not there"),
        (
            recipe("table"),
            "data.sources.0.uri: .*table is a folder.*Dataset.to_parquet",
        ),
        (
            recipe(model={"source": "rows.jsonl"}),
            "model.source: .*is a file.*--set model.source=s3",
        ),
        (
            recipe(model={"source": "table"}),
            "model.source: .*table has no file of a model",
        ),
        (
            recipe(evaluate={"harness": {"folder": "table"}}),
            "evaluate.harness.folder: .*--set evaluate.harness.folder=s3://bucket",
        ),
        (
            recipe("rows.jsonl", "large.jsonl"),
            "have 20.0 GB.*aws s3 cp .*large.jsonl s3://.*--set data.sources.1.uri=s3",
        ),
        (recipe("x" * 300), "data.*xxx cannot be read .File name too long"),
    ],
)
def test_what_is_not_sent_is_refused_before_anything_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: Json, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table").mkdir()
    Path("rows.jsonl").write_text("{}\n")
    # Sparse: it takes no room.
    Path("large.jsonl").touch()
    os.truncate("large.jsonl", MAX_BYTES + 1)
    with pytest.raises(UserError, match=message):
        send_local_inputs(document, "s3://bucket/nowhere", {}, print)


@pytest.mark.parametrize("when", ["before it is sent", "while it is sent"])
def test_a_file_that_changes_while_it_is_sent_is_not_left_in_the_store(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    rows, store = tmp_path / "rows.jsonl", s3_server.new_uri()
    rows.write_text('{"prompt": "1+1", "answer": "2"}\n')
    send = S3Store.put_file

    def overtaken(opened: S3Store, *arguments: Any) -> None:
        if when == "while it is sent":
            send(opened, *arguments)
        rows.write_text('{"prompt": "1+2", "answer": "3"}\n')
        if when == "before it is sent":
            send(opened, *arguments)

    with monkeypatch.context() as patches:
        patches.setattr(S3Store, "put_file", overtaken)
        with pytest.raises(UserError, match="was changed while it was sent"):
            send_local_inputs(recipe(str(rows)), store, s3_server.environment, print)
    assert list(open_store(store, s3_server.environment).list("")) == []


def test_inputs_that_pods_reach_are_left_alone() -> None:
    document = recipe(
        "s3://b/rows.jsonl", "package://pack/rows", "hf://datasets/a/b@c/d"
    )
    assert send_local_inputs(document, "s3://bucket/nowhere", {}, print) == []
    # A store that pods do not reach is refused elsewhere, with its reason.
    assert send_local_inputs(recipe("rows.jsonl"), "file:///store", {}, print) == []
