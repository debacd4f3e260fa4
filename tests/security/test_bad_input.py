"""Whatever is wrong with what a person brings is said in one line, before any training, with exit
status 2.

Through the real command line. Nothing is left behind but the records of the attempt.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.contracts.recipe_file import set_key
from components.storage.store import open_store
from tests.conftest import SECRET_KEY, S3Server, free_ports
from tests.pipeline.campaigns import call

pytestmark = pytest.mark.process

PIPELINE = Path(__file__).resolve().parents[2] / "pipeline.py"
MARKER = "ratchet-remote-code-ran"
RECORDS = ("attempts", "runs", "jobs", "probe")
"""What a refused run may leave in its store."""


def tiny(**changes: Any) -> str:
    """A recipe that is right, as JSON (which is YAML), with dotted keys (`__` for the dot) set."""
    document: dict[str, Any] = {
        "name": "tiny",
        "data": {
            "tasks": [{"task": "copy", "ladder": {"labelled": [1, 2], "climb": [3, 3]}}]
        },
        "decide": {"goal": {"threshold": 0.9}},
    }
    for key, value in changes.items():
        set_key(document, key.replace("__", "."), value)
    return json.dumps(document)


def labelled_source(uri: str) -> dict[str, Any]:
    """Changes: one data file instead of the task."""
    return {"data": {"sources": [{"uri": uri}]}}


def run(
    folder: Path, recipe: str | None, store: str = "", **extra: str
) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RATCHET_", "AWS_", "FORCE_"))
    }
    if recipe is not None:
        (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    command = [sys.executable, str(PIPELINE), "run", "recipe.yaml", "--rounds", "1"]
    # Nothing here gets as far as a task that needs torch, so nothing imports it in advance.
    environment = {
        **kept,
        "NO_COLOR": "1",
        "TERM": "dumb",
        "RATCHET_WARM": "0",
        **extra,
    }
    return call(
        [*command, "--store", store or (folder / "store").as_uri()],
        folder,
        environment,
        120.0,
    )


def assert_refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """One line on standard error that holds all of `said`, exit status 2, no traceback."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors)) == (2, 1), done.stderr
    for piece in said:
        assert piece in errors[0]
    assert "Traceback" not in done.stderr + done.stdout


def left_behind(folder: Path) -> Iterator[Path]:
    """Files in the store that are no mere records."""
    store = folder / "store"
    return (
        path
        for path in store.rglob("*")
        if path.is_file() and path.relative_to(store).parts[0] not in RECORDS
    )


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (None, ("recipe recipe.yaml: no such file",)),
        (
            tiny(train__frist={"steps": 3}),
            ("unknown key 'train.frist'", "did you mean 'first'?"),
        ),
        (
            tiny(decide__goal__treshold=0.5),
            ("unknown key 'decide.goal.treshold'", "did you mean 'threshold'?"),
        ),
        (
            tiny(decide__goal__threshold=1.5),
            ("decide.goal.threshold", "an accuracy is a share, from 0 to 1", "1.5"),
        ),
        (
            tiny(decide__goal__threshold=-0.1),
            ("decide.goal.threshold", "an accuracy is a share, from 0 to 1", "-0.1"),
        ),
        (tiny(decide__goal__threshold=float("nan")), ("decide.goal.threshold",)),
        (
            tiny(generate={"shards": 9, "prompts_per_round": 8}),
            ("generate: shards (9) > prompts_per_round (8): lower shards",),
        ),
        (
            tiny(data__tasks=[{"task": "sorting"}]),
            ("unknown task 'sorting'", "reverse, copy, addition"),
        ),
        (tiny(name="../../etc"), ("name",)),
        (tiny(publish={"name": "../up"}), ("publish.name",)),
        ("!!python/object/apply:os.system ['touch ran']", ("not YAML",)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_wrong_recipe_is_refused_before_a_store_is_touched(
    tmp_path: Path, recipe: str | None, said: tuple[str, ...]
) -> None:
    assert_refused(run(tmp_path, recipe), *said)
    assert {path.name for path in tmp_path.iterdir()} <= {"recipe.yaml"}


def write_rejected(path: Path) -> None:
    path.write_bytes(b'{"prompt": "a"}\n' + b"\x00\xff no json {{{\n" * 3 + b"[1, 2]\n")


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_deep(path: Path) -> None:
    path.write_bytes(b"[" * 100_000 + b"\n")


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (None, ("data.jsonl: no such file", "correct the path")),
        (write_nothing, ("data.jsonl: no usable row (it holds no rows)",)),
        (
            write_rejected,
            (
                "no usable row (all 5 rows were rejected, most often: invalid_utf8, first at line 2: byte",
            ),
        ),
        (
            write_deep,
            (
                "no usable row (all 1 rows were rejected, most often: not_json, first at line 1",
            ),
        ),
        (Path.mkdir, ("data.jsonl is a folder; name one file in it",)),
    ],
    ids=["missing", "empty", "garbage", "nested", "folder"],
)
def test_an_unusable_data_file_is_refused_before_training(
    tmp_path: Path, write: Any, said: tuple[str, ...]
) -> None:
    if write is not None:
        write(tmp_path / "data.jsonl")
    done = run(tmp_path, tiny(**labelled_source((tmp_path / "data.jsonl").as_uri())))
    assert_refused(done, *said)
    assert not (tmp_path / "store").exists()


def test_an_unknown_reasoning_gym_task_is_refused_before_training(
    tmp_path: Path,
) -> None:
    done = run(tmp_path, tiny(data={"tasks": [{"task": "reasoning_gym/chian_sum"}]}))
    assert_refused(
        done, "reasoning_gym/chian_sum: no such task; did you mean chain_sum?"
    )
    assert list(left_behind(tmp_path)) == []


def test_a_reasoning_gym_task_that_runs_answers_as_code_is_refused(
    tmp_path: Path,
) -> None:
    done = run(
        tmp_path,
        tiny(data={"tasks": [{"task": "reasoning_gym/polynomial_multiplication"}]}),
    )
    assert_refused(done, "its scorer runs the model's answer as code")
    assert list(left_behind(tmp_path)) == []


class Touch:
    """Pickles to a call that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def pickled_only(model: Path) -> None:
    (model / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (model / "pytorch_model.bin").write_bytes(
        pickle.dumps(Touch(model.parent / MARKER))
    )


def remote_code(model: Path) -> None:
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    ).encode()
    (model / "model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + bytes(4)
    )
    config = {"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "evil.Evil"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "evil.py").write_text(
        f"import os; os.mkdir({str(model.parent / MARKER)!r})"
    )


def no_weights(model: Path) -> None:
    (model / "config.json").write_text(json.dumps({"model_type": "llama"}))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (pickled_only, ("only pickled weights (pytorch_model.bin)", "*.safetensors")),
        (remote_code, ("config.json asks for remote code (auto_map)",)),
        (no_weights, ("no weights",)),
        (None, ("no such folder",)),
    ],
    ids=["pickle", "remote-code", "no-weights", "missing"],
)
def test_a_model_that_brings_code_or_no_weights_is_refused(
    tmp_path: Path, write: Any, said: tuple[str, ...]
) -> None:
    model = tmp_path / "model"
    if write is not None:
        model.mkdir()
        write(model)
    done = run(tmp_path, tiny(model={"source": model.as_uri()}))
    assert_refused(done, *said)
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / MARKER).exists()


def test_a_store_that_cannot_be_written_is_refused_before_anything_runs(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("mine")
    done = run(tmp_path, tiny(), (tmp_path / "file" / "store").as_uri())
    assert_refused(done, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / ".ratchet").exists()


def test_an_endpoint_that_cannot_be_reached_is_refused_before_anything_runs(
    tmp_path: Path,
) -> None:
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    done = run(
        tmp_path,
        tiny(),
        "s3://ratchet-tests/nowhere",
        AWS_ENDPOINT_URL_S3=endpoint,
        AWS_ACCESS_KEY_ID="x",
        AWS_SECRET_ACCESS_KEY="y",
        AWS_REGION="us-east-1",
    )
    assert_refused(done, endpoint, "cannot be reached; check AWS_ENDPOINT_URL_S3")
    assert not (tmp_path / ".ratchet").exists()


@pytest.mark.parametrize(
    "wrong",
    [("AWS_SECRET_ACCESS_KEY", "not-the-secret"), ("AWS_ACCESS_KEY_ID", "nobody")],
)
def test_wrong_credentials_are_refused_and_never_shown(
    tmp_path: Path, s3_server: S3Server, wrong: tuple[str, str]
) -> None:
    uri = s3_server.new_uri()
    done = run(tmp_path, tiny(), uri, **(s3_server.environment | dict([wrong])))
    assert_refused(done, "refuses bucket", "check AWS_ACCESS_KEY_ID")
    for secret in (SECRET_KEY, "not-the-secret"):
        assert secret not in done.stderr + done.stdout
    assert not (tmp_path / ".ratchet").exists()
    assert list(open_store(uri, s3_server.environment).list("")) == []
