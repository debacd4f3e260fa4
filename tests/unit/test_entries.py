"""Every step by its own command line, as a container or a person starts it: one tiny campaign, real
processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.cli.package.profiles import STEPS
from components.contracts.summaries import (
    DecideSummary,
    GenerateSummary,
    PublishSummary,
    SelectSummary,
    TrainSummary,
)
from components.runtime.context import Context
from components.runtime.receipts import Receipt, read_receipt, read_summary, ref_of_uri
from tests.unit.forked import start

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
name: by-hand
model:
  scratch: {hidden_size: 16, num_layers: 1, num_heads: 2, intermediate_size: 32, max_length: 32}
data:
  tasks:
    - {task: copy, labelled: 60, dev: 8, unlabelled: 40, validation: 16, test: 16,
       ladder: {labelled: [1, 3], climb: [4, 5]}}
generate: {prompts_per_round: 24, samples_per_prompt: 1, max_new_tokens: 8, shards: 2}
select: {verifier: false, require_finished: false, min_accepted: 1}
train: {first: {steps: 4}, rounds: {steps: 2}, batch_size: 16, micro_batch_size: 16, max_length: 32, zero: 0}
decide: {goal: {threshold: 1.0}, max_rounds: 2}
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))


def command(step: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call a step as a person does."""
    return subprocess.run(
        [sys.executable, "-m", f"components.{step}", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )


def done(folder: Path, step: str, *arguments: str) -> list[str]:
    """Carry a step out, and return what it prints: the URI of its receipt and what it tells beside."""
    stdout, stderr = folder / "stdout", folder / "stderr"
    stdout.write_text("")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    module = f"components.{step}.__main__"
    process = start(module, arguments, environment, stdout=stdout, stderr=stderr)
    process.join(300)
    assert process.exitcode == 0, stderr.read_text()[-3000:]
    return stdout.read_text().splitlines()


def recipe_options(context: Context, folder: Path, setting: str) -> tuple[str, ...]:
    """Options that name the store, the recipe of a folder, and one key that is set in it."""
    recipe = str(folder / "recipe.yaml")
    return ("--store", context.store.root, "--recipe", recipe, "--set", setting)


def test_a_round_can_be_carried_out_by_hand(context: Context, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def receipt(uri: str) -> Receipt:
        return read_receipt(context, ref_of_uri(context, uri))

    recipe = recipe_options(context, tmp_path, "seed=3")
    start, *printed = done(tmp_path, "prepare", *recipe)
    assert printed == ["supervised=true"]
    [base] = done(tmp_path, "evaluate", "--state", start, "--candidate", start)
    assert receipt(base).inputs.keys() == {"prepare", "candidate"}
    [state] = done(
        tmp_path, "decide", "first-champion", "--state", start, "--results", base
    )
    assert receipt(state).seed == 3
    [candidate] = done(tmp_path, "train", "--state", state, "--mix", start)
    assert receipt(candidate).inputs["mix"] == receipt(start).inputs["mix"]
    assert read_summary(receipt(candidate), TrainSummary).steps <= 4
    [results] = done(tmp_path, "evaluate", "--state", state, "--candidate", candidate)
    assert receipt(results).inputs["candidate"] == receipt(candidate).digest
    round_zero = (
        "--state",
        state,
        "--mix",
        start,
        "--candidate",
        candidate,
        "--results",
        results,
    )
    decided, go = done(tmp_path, "decide", *round_zero)
    assert go == "go=true"
    assert read_summary(receipt(decided), DecideSummary).verdict == "rejected"
    shards = [
        done(tmp_path, "generate", "--state", decided, "--shard", str(shard))[0]
        for shard in (1, 0)
    ]
    assert [
        read_summary(receipt(shard), GenerateSummary).prompts for shard in shards
    ] == [12, 12]
    [mix] = done(tmp_path, "select", "--state", decided, "--samples", *shards)
    account = read_summary(receipt(mix), SelectSummary)
    assert account.generated == 24
    assert account.accepted + sum(account.dropped.values()) == 24
    published, *outcome = done(tmp_path, "publish", "--state", decided)
    assert receipt(published).step == "publish"
    # Four steps teach nothing: the base is still the champion, and is not released as if it were
    # better.
    summary = read_summary(receipt(published), PublishSummary)
    assert outcome == ['status="not released"', "released=false", 'prefix=""']
    assert not summary.released
    assert "the champion is the base model" in summary.why
    [page] = done(
        tmp_path, "report", "--store", context.store.root, "--run-id", run_of(context)
    )
    assert Path(page.removeprefix("file://")).read_text().startswith("<!doctype html>")
    # The same work has the same address: nothing is done twice.
    assert done(tmp_path, "decide", *round_zero) == [decided, go]


def test_the_same_entry_trains_in_many_processes_under_torchrun(
    context: Context, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = recipe_options(context, tmp_path, "train.num_processes=2")
    state, *_ = done(tmp_path, "prepare", *recipe)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RATCHET_CACHE": str(context.cache.folder.parent),
    }
    result = subprocess.run(
        [
            sys.executable,
            *torchrun,
            "-m",
            "components.train",
            "--state",
            state,
            "--mix",
            state,
        ],
        env=environment,
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    first, second = result.stdout.split()
    assert first == second, "both processes name the one receipt"
    trained = read_receipt(context, ref_of_uri(context, first))
    assert read_summary(trained, TrainSummary).num_processes == 2
    assert done(tmp_path, "train", "--state", state, "--mix", state) == [first], (
        "alone it is found, not trained again"
    )
    assert not list(context.store.list("progress/"))


def run_of(context: Context) -> str:
    """The one run of the store."""
    [run_id] = {key.split("/")[1] for key in context.store.list("runs/")}
    return run_id


@pytest.mark.parametrize("step", STEPS)
def test_a_missing_option_is_wrong_usage(step: str) -> None:
    result = command(step)
    assert result.returncode == 2
    assert "required" in result.stderr
    assert result.stdout == ""


def test_a_step_says_in_one_line_what_is_wrong_and_ends_with_its_status(
    context: Context,
) -> None:
    for uri, status, said in (
        ("ftp://host/x", 2, "use file:///absolute/folder or s3://bucket/prefix"),
        (f"{context.store.root}/steps/decide/0123.json", 3, "0123.json"),
    ):
        result = command("publish", "--state", uri)
        assert (result.returncode, result.stdout) == (status, "")
        assert result.stderr.count("\n") == 1
        assert said in result.stderr
