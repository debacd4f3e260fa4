"""`gc` deletes what nobody needs, in two collections, and says afterwards what was collected."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.cli.collect.collection import collect
from components.cli.main import app
from components.contracts.summaries import TrainSummary
from components.errors import Corrupt
from components.runtime.attempts import Attempt, Task, attempting
from components.runtime.context import Context
from components.runtime.ledger import append_line
from components.runtime.receipts import fetch, find_receipt, rely_on
from components.storage import keys
from components.storage.store import open_store
from tests.conftest import S3Server, context_in
from tests.promises import collections
from tests.unit.collected import (
    EVERYTHING,
    WEIGHTS,
    OwnRun,
    is_stored,
    line_of,
    trained,
    twice,
)
from tests.unit.handmade import RECIPE, Campaign, whole_campaign


def test_the_grace_period_counts_from_the_mark(context: Context) -> None:
    whole_campaign(context)
    for grace_seconds, deleted in ((3600.0, 0), (3600.0, 0)):
        account = collect(context, EVERYTHING, grace_seconds=grace_seconds, delete=True)
        assert account.deleted.objects == deleted
    assert account.waiting.objects == 1
    root = Path(context.store.root.removeprefix("file://"))
    [mark] = (root / "condemned").rglob("*.json")
    hour_ago = mark.stat().st_mtime - 3601
    os.utime(mark, (hour_ago, hour_ago))
    account = collect(context, EVERYTHING, grace_seconds=3600.0, delete=True)
    assert account.deleted.objects == 1


def test_what_is_stored_again_while_it_is_condemned_stays(context: Context) -> None:
    old = OwnRun(context, "old")
    OwnRun(context, "last")
    collect(context, EVERYTHING, grace_seconds=0.0, delete=True)

    def same(folder: Path) -> TrainSummary:
        return OwnRun._training(old, folder, 0)

    other = Campaign(context, {**RECIPE, "name": "other"})
    receipt = other.step("train", "train-r0", 0, {}, same)
    account = collect(context, EVERYTHING, grace_seconds=0.0, delete=True)
    assert account.needed_again == 0
    digest = trained(old, 0).objects[WEIGHTS].sha256
    assert list(context.store.list("objects/")).count(keys.object_key(digest, 1)) == 1
    assert context.store.size(keys.object_key(digest)) is None
    assert fetch(context, receipt, WEIGHTS).read_text().startswith("weights of round 0")
    assert fetch(context, trained(old, 0), WEIGHTS).exists()
    assert find_receipt(context, "train", receipt.key) == receipt
    # A loss of the new copy is damage, although the old one was collected.
    context.store.delete(keys.object_key(digest, 1))
    with pytest.raises(Corrupt, match="is gone"):
        find_receipt(context, "train", receipt.key)


def test_work_that_a_task_has_found_done_is_kept_before_the_task_ends(
    context: Context,
) -> None:
    old = OwnRun(context, "old")
    OwnRun(context, "last")
    collect(context, EVERYTHING, grace_seconds=0.0, delete=True)
    with attempting(
        context, Task(run_id="new", name="train-r0", round=0), "train"
    ) as attempt:
        rely_on(context, attempt, trained(old, 0))
        account = collect(context, EVERYTHING, grace_seconds=0.0, delete=True)
    assert account.deleted.objects > 0
    assert account.needed_again > 0
    assert is_stored(context, trained(old, 0), WEIGHTS)
    # A collection that began before may delete it yet: it is stored once more.
    digest = trained(old, 0).objects[WEIGHTS].sha256
    context.store.put_bytes(keys.sweep_key("another"), b"{}")
    with attempting(
        context, Task(run_id="newer", name="train-r0", round=0), "train"
    ) as attempt:
        rely_on(context, attempt, trained(old, 0))
    assert context.store.size(keys.object_key(digest, 1)) is not None


@pytest.mark.parametrize("kind", ["steps", "attempts", "releases"])
def test_nothing_is_deleted_while_a_record_is_damaged(
    context: Context, kind: str
) -> None:
    made = OwnRun(context, "old")
    assert made.published is not None
    append_line(context, line_of(made, made.published, 1))
    OwnRun(context, "last")
    before = set(context.store.list("objects/"))
    collect(context, EVERYTHING, grace_seconds=0.0, delete=True)
    key = next(iter(context.store.list(f"{kind}/")))
    context.store.put_bytes(key, context.store.get_bytes(key)[:-9])
    with pytest.raises(
        Corrupt, match="nothing is deleted while a record cannot be read"
    ):
        collect(context, EVERYTHING, grace_seconds=0.0, delete=True)
    assert set(context.store.list("objects/")) == before


def test_a_record_of_an_attempt_is_read_as_before_and_names_what_was_reused(
    context: Context,
) -> None:
    made = OwnRun(context, "run")
    made.step(
        "train", "train-r0", 0, {"prepare": made.prepared, "mix": made.first_mix}, fail
    )
    keys_of_run = list(context.store.list(keys.attempts_prefix(made.run_id)))
    attempts = [Attempt.from_bytes(context.store.get_bytes(key)) for key in keys_of_run]
    reused = [attempt for attempt in attempts if attempt.reused]
    assert [attempt.other_receipts for attempt in reused] == [(trained(made, 0).ref,)]
    plain = next(attempt for attempt in attempts if not attempt.other_receipts)
    # So that an older version reads what this one writes.
    assert b"other_receipts" not in plain.to_bytes()


def fail(folder: Path) -> TrainSummary:
    raise AssertionError("done already")


def test_the_verb_shows_what_would_go_and_refuses_what_is_dangerous(
    context: Context,
) -> None:
    made = whole_campaign(context)
    store = ["--store", context.store.root]
    runner = CliRunner()
    result = runner.invoke(app, ["gc", *store])
    assert result.exit_code == 0
    assert "this was a dry run; --delete does it" not in result.stdout
    assert f"run {made.run_id}: one of the last 10 runs" in result.stdout
    document = json.loads(
        runner.invoke(app, ["gc", "--delete", "--json", *store]).stdout
    )
    # Its weights have no more than 64 KiB.
    assert document["condemned"] == {"bytes": 0, "objects": 0}
    refused = runner.invoke(app, ["gc", "--delete", "--grace-hours", "0.5", *store])
    assert refused.exit_code == 2
    assert "at least 1" in refused.output
    unknown = runner.invoke(app, ["gc", "--forget", "nobody", *store])
    assert (unknown.exit_code, "knows no such run" in unknown.output) == (2, True)


@pytest.mark.process
@pytest.mark.parametrize("kind", ["file", pytest.param("s3", marks=pytest.mark.s3)])
def test_processes_that_write_lose_nothing_to_one_that_collects(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    environment: dict[str, str] = {}
    uri = (tmp_path / "store").as_uri()
    if kind == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        environment, uri = server.environment, server.new_uri()
    context = context_in(tmp_path / "here", open_store(uri, environment))
    history = collections.History(context)
    # The first of these runs is given up. It has stored more than the other one.
    for number, steps in enumerate((9, 1)):
        begun = dataclasses.replace(context, started=1000.0 * number)
        history.write(begun, f"old-{number}", steps=steps)
        ended = dataclasses.replace(context, started=1000.0 * number + 1)
        collections.end_run(ended, f"old-{number}")
    history.had.clear()
    collect(context, collections.POLICY, grace_seconds=0.0, delete=True)
    assert next(context.store.list("condemned/"), None) is not None
    runs = ("run-1", "run-2")
    forkserver = multiprocessing.get_context("forkserver")
    processes = [
        forkserver.Process(
            target=collections.write_alone,
            args=(uri, environment, str(tmp_path), run_id),
        )
        for run_id in runs
    ]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        collect(context, collections.POLICY, grace_seconds=0.0, delete=True)
        processes[0].join(timeout=0.02)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    twice(context, collections.POLICY)
    for run_id in runs:
        history.had |= collections.had_by(tmp_path, run_id)
    assert len(history.had) >= 8
    assert list(history.lost()) == []
