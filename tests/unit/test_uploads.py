"""Data and models of this machine reach a cluster: by their content, once, and never by surprise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from components.cli.cluster.inputs import refuse_local_inputs
from components.cli.cluster.uploads import MAX_BYTES, send_local_inputs
from components.errors import UserError
from components.storage.sources import local_folder, local_path
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
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "checkpoint-1/a.json"):
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
    assert sorted(file.name for file in fetched.iterdir()) == ["config.json", "model.safetensors"]

    (tmp_path / "model.gguf").write_text("a whole model")
    whole = recipe(model={"source": str(tmp_path / "model.gguf")})
    uri = applied(whole, send_local_inputs(whole, store, variables, print))["model"]["source"]
    assert uri.endswith("/model.gguf")
    assert local_path(uri, variables, tmp_path / "e").read_text() == "a whole model"

    again: list[str] = []
    assert sent(again) == first
    assert all(line.endswith("the store has it") for line in again)
    rows.write_text('{"prompt": "1+2", "answer": "3"}\n')
    assert sent([])["data"]["sources"][0]["uri"] != one
    assert local_path(one, variables, tmp_path / "d").is_file()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (recipe("missing.jsonl"), "data.sources.0.uri: .*missing.jsonl is not there"),
        (recipe("table"), "data.sources.0.uri: .*table is a folder.*Dataset.to_parquet"),
        (
            recipe(model={"source": "rows.jsonl"}),
            "model.source: .*is a file.*--set model.source=s3",
        ),
        (recipe(model={"source": "table"}), "model.source: .*table has no file of a model"),
        (
            recipe(evaluate={"harness": {"folder": "table"}}),
            "evaluate.harness.folder: .*--set evaluate.harness.folder=s3://bucket",
        ),
        (recipe("large.jsonl"), "have 20.0 GB.*aws s3 cp .*large.jsonl s3://.*--set data.sources"),
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


def test_inputs_that_pods_reach_are_left_alone() -> None:
    document = recipe("s3://b/rows.jsonl", "package://pack/rows", "hf://datasets/a/b@c/d")
    assert send_local_inputs(document, "s3://bucket/nowhere", {}, print) == []
    # A store that pods do not reach is refused elsewhere, with its reason.
    assert send_local_inputs(recipe("rows.jsonl"), "file:///store", {}, print) == []
