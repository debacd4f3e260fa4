"""`gc` deletes what nobody needs, in two collections, and says afterwards what was collected."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.cli.collect.collection import Collection, collect
from components.cli.collect.marking import REJECTED, Policy
from components.cli.main import app
from components.cli.verify import check_run
from components.contracts.releases import BaseModelLine, Line
from components.contracts.summaries import TrainSummary
from components.errors import Collected, Corrupt
from components.report.runs import load_run
from components.runtime.attempts import Attempt, Task, attempting
from components.runtime.context import Context
from components.runtime.ledger import append_line
from components.runtime.receipts import Receipt, fetch, find_receipt, read_receipt, rely_on
from components.storage import keys
from components.storage.objects import find
from components.storage.store import Store, open_store
from tests.conftest import S3Server, context_in
from tests.promises import collections
from tests.promises.histories import line_of as any_line
from tests.unit.handmade import RECIPE, Campaign, whole_campaign

EVERYTHING = Policy(keep_runs=1, small_bytes=0, unnamed_bytes=0)
"""A policy that spares no object for its size."""
WEIGHTS = "model/model.safetensors"
Make = Callable[[Store], Context]


def twice(context: Context, policy: Policy = EVERYTHING) -> tuple[Collection, Collection]:
    """Condemn, then delete, as if the grace period had passed in between."""
    first = collect(context, policy, grace_seconds=0.0, delete=True)
    return first, collect(context, policy, grace_seconds=0.0, delete=True)


def trained(campaign: Campaign, number: int) -> Receipt:
    record = next(record for record in campaign.state.history if record.round == number)
    return read_receipt(campaign.context, record.receipts["train"])


def is_stored(context: Context, receipt: Receipt, name: str) -> bool:
    ref = receipt.objects[name]
    return find(context.store, ref.sha256, ref.size) is not None


def elsewhere(context: Context, folder: Path) -> Context:
    """Return the surroundings of another machine, with an empty cache."""
    return context_in(folder / "elsewhere", context.store)


def test_weights_of_rejected_candidates_go_and_all_else_of_a_kept_run_stays(
    store: Store, make_test_context: Make, tmp_path: Path
) -> None:
    context = make_test_context(store)
    made = whole_campaign(context)
    before = set(store.list(""))
    dry = collect(context, EVERYTHING, grace_seconds=0.0, delete=False)
    assert set(store.list("")) == before
    first, second = twice(context)
    rejected = trained(made, 2)
    assert {kind: amount.objects for kind, amount in dry.found.items()} == {REJECTED: 1}
    assert (dry.condemned, first.condemned, second.deleted) == (first.condemned,) * 2 + (
        first.condemned,
    )
    assert first.deleted.objects == 0
    gone = keys.object_key(rejected.objects[WEIGHTS].sha256)
    kept = {key for key in store.list("") if not key.startswith(("gc/", "condemned/"))}
    assert kept == before - {gone}
    # Whoever needs it is told, and what to do.
    with pytest.raises(Collected, match=r"collected by gc \(weights of rejected.*delete .*train"):
        fetch(elsewhere(context, tmp_path), rejected, WEIGHTS)
    findings = check_run(context, made.run_id)
    assert findings.damaged == []
    assert len(findings.collected) == 1
    # The work is done all the same: the run is not trained again.
    assert find_receipt(context, "train", rejected.key) == rejected
    # Nobody collected this one.
    store.delete(keys.object_key(trained(made, 1).objects[WEIGHTS].sha256))
    assert len(check_run(context, made.run_id).damaged) == 1


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


class OwnRun(Campaign):
    """A campaign of two rounds whose weights nobody else has; the second candidate is rejected."""

    def __init__(self, context: Context, name: str, *, ends: bool = True) -> None:
        super().__init__(context, {**RECIPE, "name": name})
        # Each begins after those that are there.
        self.now += 1000.0 * len(list(context.store.list("attempts/")))
        self.prepare()
        self.round(0, 0.4, "promoted")
        self.round(1, 0.5, "rejected", stop="max_rounds")
        self.published = self.publish(target_met=False) if ends else None

    def step(self, step: str, name: str, *arguments: Any, **settings: Any) -> Receipt:
        """Commit a step that no other run has."""
        return super().step(step, f"{name}-{self.recipe.name}", *arguments, **settings)

    def _training(self, folder: Path, number: int) -> TrainSummary:
        summary = super()._training(folder, number)
        (folder / WEIGHTS).write_text(f"weights of round {number} of {self.recipe.name} " * 30_000)
        return summary


def line_of(made: Campaign, publish: Receipt, number: int, **changes: Any) -> Line:
    """A line of the ledger that releases what a campaign published."""
    about = {
        "publish": publish.ref,
        "publish_digest": publish.digest,
        "run_id": made.run_id,
        "state": made.last.ref if made.last is not None else "",
        "base": BaseModelLine(source="scratch", prepared=made.prepared.ref, digest="none"),
    }
    line = any_line("by-hand", number, "v1")
    return line.model_copy(update={**about, **changes})


def test_runs_that_are_not_kept_go_but_for_releases_and_what_is_not_finished(
    context: Context,
) -> None:
    released = OwnRun(context, "released")
    rolled_back = OwnRun(context, "rolled-back")
    for number, made in enumerate((released, rolled_back), 1):
        assert made.published is not None
        assert append_line(context, line_of(made, made.published, number))
    back = {"action": "rollback", "returns_to": 1}
    assert released.published is not None
    assert append_line(context, line_of(released, released.published, 3, **back))
    stopped = OwnRun(context, "stopped", ends=False)
    old = OwnRun(context, "old")
    last = OwnRun(context, "last")
    twice(context)
    for made in (released, rolled_back, stopped, last):
        assert is_stored(context, trained(made, 0), WEIGHTS), made.run_id
        assert not is_stored(context, trained(made, 1), WEIGHTS), made.run_id
    assert not is_stored(context, trained(old, 0), WEIGHTS)
    for made in (released, rolled_back):
        assert made.published is not None
        assert is_stored(context, made.published, "model.safetensors")
    # It can still be told what an old run was.
    view = load_run(context, old.run_id)
    assert [one.record.verdict for one in view.rounds] == ["promoted", "rejected"]
    # A person may give up the one that was stopped.
    policy = dataclasses.replace(EVERYTHING, forgotten=frozenset({stopped.run_id}))
    twice(context, policy)
    assert not is_stored(context, trained(stopped, 0), WEIGHTS)


def test_a_champion_that_waits_for_approval_is_kept_even_when_its_run_is_given_up(
    context: Context,
) -> None:
    class Waits(OwnRun):
        def publish(self, *, target_met: bool) -> Receipt:
            receipt = super().publish(target_met=target_met)
            summary = {**receipt.summary, "needs_approval": True}
            waiting = receipt.model_copy(update={"summary": summary})
            key = keys.receipt_key(receipt.step, receipt.key)
            context.store.put_bytes(key, waiting.to_bytes())
            return waiting

    waits = Waits(context, "waits")
    OwnRun(context, "last")
    policy = dataclasses.replace(EVERYTHING, forgotten=frozenset({waits.run_id}))
    account, _ = twice(context, policy)
    assert account.kept_runs[waits.run_id] == "its champion waits for approval"
    assert is_stored(context, trained(waits, 0), WEIGHTS)
    assert waits.published is not None
    assert append_line(context, line_of(waits, waits.published, 1, state=trained(waits, 0).ref))
    account, _ = twice(context, policy)
    assert account.dropped_runs == [waits.run_id]
    assert is_stored(context, waits.published, "model.safetensors")


def test_a_run_that_goes_on_from_a_given_up_one_keeps_what_it_needs(context: Context) -> None:
    earlier = OwnRun(context, "earlier")
    OwnRun(context, "another")
    later = Campaign(context, {**RECIPE, "name": "later"})
    later.now += 1e6
    later.go_on(earlier)
    twice(context)
    assert is_stored(context, trained(earlier, 0), WEIGHTS)
    assert not is_stored(context, trained(earlier, 1), WEIGHTS)


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


def test_ten_rejected_rounds_take_no_more_room_than_one(context: Context) -> None:
    made = OwnRun(context, "ten", ends=False)
    root = Path(context.store.root.removeprefix("file://"))
    sizes = []
    for number in range(2, 12):
        made.round(number, 0.5, "rejected")
        later = dataclasses.replace(context, clock=lambda: time.time() + 2 * 3600)
        twice(later)
        objects = [path.stat().st_size for path in root.rglob("objects/*/*")]
        cached = [path.stat().st_size for path in context.cache.folder.rglob("*/*")]
        sizes.append((sum(objects), sum(cached)))
    weights = 1_000_000
    growth = [last - first for first, last in zip(sizes[0], sizes[-1], strict=True)]
    assert max(growth) < weights


def test_work_that_a_task_has_found_done_is_kept_before_the_task_ends(context: Context) -> None:
    old = OwnRun(context, "old")
    OwnRun(context, "last")
    collect(context, EVERYTHING, grace_seconds=0.0, delete=True)
    with attempting(context, Task(run_id="new", name="train-r0", round=0), "train") as attempt:
        rely_on(context, attempt, trained(old, 0))
        account = collect(context, EVERYTHING, grace_seconds=0.0, delete=True)
    assert account.deleted.objects > 0
    assert account.needed_again > 0
    assert is_stored(context, trained(old, 0), WEIGHTS)
    # A collection that began before may delete it yet: it is stored once more.
    digest = trained(old, 0).objects[WEIGHTS].sha256
    context.store.put_bytes(keys.sweep_key("another"), b"{}")
    with attempting(context, Task(run_id="newer", name="train-r0", round=0), "train") as attempt:
        rely_on(context, attempt, trained(old, 0))
    assert context.store.size(keys.object_key(digest, 1)) is not None


@pytest.mark.parametrize("kind", ["steps", "attempts", "releases"])
def test_nothing_is_deleted_while_a_record_is_damaged(context: Context, kind: str) -> None:
    made = OwnRun(context, "old")
    assert made.published is not None
    append_line(context, line_of(made, made.published, 1))
    OwnRun(context, "last")
    before = set(context.store.list("objects/"))
    collect(context, EVERYTHING, grace_seconds=0.0, delete=True)
    key = next(iter(context.store.list(f"{kind}/")))
    context.store.put_bytes(key, context.store.get_bytes(key)[:-9])
    with pytest.raises(Corrupt, match="nothing is deleted while a record cannot be read"):
        collect(context, EVERYTHING, grace_seconds=0.0, delete=True)
    assert set(context.store.list("objects/")) == before


def test_objects_that_no_receipt_names_go_once_they_are_old_and_large(context: Context) -> None:
    OwnRun(context, "last")
    digest = "ab" * 32
    context.store.put_bytes(keys.object_key(digest), b"of a task that was killed")
    context.store.put_bytes(f"objects/{digest[:2]}/notes.txt", b"somebody's own")
    spared = dataclasses.replace(EVERYTHING, unnamed_bytes=100)
    assert twice(context, spared)[1].deleted.objects == 1
    assert collect(context, EVERYTHING, grace_seconds=3600.0, delete=True).condemned.objects == 0
    assert twice(context)[1].deleted.objects == 1
    left = [key for key in context.store.list("objects/") if digest[:2] in key.split("/")]
    assert left == [f"objects/{digest[:2]}/notes.txt"]


def test_progress_goes_with_finished_work_alone(context: Context) -> None:
    made = OwnRun(context, "last")
    finished = keys.progress_key("train", f"{trained(made, 0).key}-1", "step-1.json")
    unfinished = keys.progress_key("train", "0" * 32, "step-1.json")
    for key in (finished, unfinished):
        context.store.put_bytes(key, b"{}")
    account = collect(context, EVERYTHING, grace_seconds=0.0, delete=True)
    assert account.unfinished.objects == 1
    assert list(context.store.list("progress/")) == [unfinished]


def test_a_record_of_an_attempt_is_read_as_before_and_names_what_was_reused(
    context: Context,
) -> None:
    made = OwnRun(context, "run")
    made.step("train", "train-r0", 0, {"prepare": made.prepared, "mix": made.first_mix}, fail)
    keys_of_run = list(context.store.list(keys.attempts_prefix(made.run_id)))
    attempts = [Attempt.from_bytes(context.store.get_bytes(key)) for key in keys_of_run]
    reused = [attempt for attempt in attempts if attempt.reused]
    assert [attempt.other_receipts for attempt in reused] == [(trained(made, 0).ref,)]
    plain = next(attempt for attempt in attempts if not attempt.other_receipts)
    # So that an older version reads what this one writes.
    assert b"other_receipts" not in plain.to_bytes()


def fail(folder: Path) -> TrainSummary:
    raise AssertionError("done already")


def test_the_verb_shows_what_would_go_and_refuses_what_is_dangerous(context: Context) -> None:
    made = whole_campaign(context)
    store = ["--store", context.store.root]
    runner = CliRunner()
    result = runner.invoke(app, ["gc", *store])
    assert result.exit_code == 0
    assert "this was a dry run; --delete does it" not in result.stdout
    assert f"run {made.run_id}: one of the last 10 runs" in result.stdout
    document = json.loads(runner.invoke(app, ["gc", "--delete", "--json", *store]).stdout)
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
            target=collections.write_alone, args=(uri, environment, str(tmp_path), run_id)
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
