"""What `gc` keeps: all that a kept run, a release, or work that is not finished needs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from components.cli.collect.collection import collect
from components.cli.collect.marking import REJECTED
from components.cli.verify import check_run
from components.errors import Collected
from components.report.runs import load_run
from components.runtime.context import Context
from components.runtime.ledger import append_line
from components.runtime.receipts import Receipt, fetch, find_receipt
from components.storage import keys
from components.storage.store import Store
from tests.unit.collected import (
    EVERYTHING,
    WEIGHTS,
    Make,
    OwnRun,
    elsewhere,
    is_stored,
    line_of,
    trained,
    twice,
)
from tests.unit.handmade import RECIPE, Campaign, whole_campaign


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
    assert (dry.condemned, first.condemned, second.deleted) == (
        first.condemned,
    ) * 2 + (first.condemned,)
    assert first.deleted.objects == 0
    gone = keys.object_key(rejected.objects[WEIGHTS].sha256)
    kept = {key for key in store.list("") if not key.startswith(("gc/", "condemned/"))}
    assert kept == before - {gone}
    # Whoever needs it is told, and what to do.
    with pytest.raises(
        Collected, match=r"collected by gc \(weights of rejected.*delete .*train"
    ):
        fetch(elsewhere(context, tmp_path), rejected, WEIGHTS)
    findings = check_run(context, made.run_id)
    assert findings.damaged == []
    assert len(findings.collected) == 1
    # The work is done all the same: the run is not trained again.
    assert find_receipt(context, "train", rejected.key) == rejected
    # Nobody collected this one.
    store.delete(keys.object_key(trained(made, 1).objects[WEIGHTS].sha256))
    assert len(check_run(context, made.run_id).damaged) == 1


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
    assert append_line(
        context, line_of(waits, waits.published, 1, state=trained(waits, 0).ref)
    )
    account, _ = twice(context, policy)
    assert account.dropped_runs == [waits.run_id]
    assert is_stored(context, waits.published, "model.safetensors")


def test_a_run_that_goes_on_from_a_given_up_one_keeps_what_it_needs(
    context: Context,
) -> None:
    earlier = OwnRun(context, "earlier")
    OwnRun(context, "another")
    later = Campaign(context, {**RECIPE, "name": "later"})
    later.now += 1e6
    later.go_on(earlier)
    twice(context)
    assert is_stored(context, trained(earlier, 0), WEIGHTS)
    assert not is_stored(context, trained(earlier, 1), WEIGHTS)


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


def test_objects_that_no_receipt_names_go_once_they_are_old_and_large(
    context: Context,
) -> None:
    OwnRun(context, "last")
    digest = "ab" * 32
    context.store.put_bytes(keys.object_key(digest), b"of a task that was killed")
    context.store.put_bytes(f"objects/{digest[:2]}/notes.txt", b"somebody's own")
    spared = dataclasses.replace(EVERYTHING, unnamed_bytes=100)
    assert twice(context, spared)[1].deleted.objects == 1
    assert (
        collect(
            context, EVERYTHING, grace_seconds=3600.0, delete=True
        ).condemned.objects
        == 0
    )
    assert twice(context)[1].deleted.objects == 1
    left = [
        key for key in context.store.list("objects/") if digest[:2] in key.split("/")
    ]
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
