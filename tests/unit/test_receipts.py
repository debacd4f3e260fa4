"""Receipts: work is done once, its results are found again, and every attempt is on record."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.contracts.summaries import StartSummary
from components.errors import Missing, Transient, UserError
from components.runtime.attempts import Attempt
from components.runtime.context import Context
from components.runtime.receipts import (
    Receipt,
    commit_once,
    fetch,
    fetch_folder,
    find_receipt,
    read_receipt,
    read_summary,
    receipt_uri,
    ref_of_uri,
)
from components.storage.store import Store
from tests.unit.receipted import TASK, Make, Numbers, Work, attempts_of, commit


def test_the_files_and_summary_of_a_step_can_be_read_elsewhere(
    store: Store, make_test_context: Make
) -> None:
    here, elsewhere = make_test_context(store), make_test_context(store)
    made = commit(here, Work())
    found = read_receipt(elsewhere, made.ref)
    assert found == made
    assert found.digest == made.digest
    assert found.summary == {"steps": 3, "final_loss": 0.5}
    assert sorted(found.objects) == [
        "log.jsonl",
        "model/deep/config.json",
        "model/weights.bin",
    ]
    assert fetch(elsewhere, found, "model/weights.bin").read_text() == "weights"
    assert fetch(elsewhere, found, "log.jsonl").read_bytes() == b""
    folder = fetch_folder(elsewhere, found, "model")
    assert sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*")
    ) == [
        "deep",
        "deep/config.json",
        "weights.bin",
    ]
    assert (folder / "weights.bin").stat().st_mode & 0o222 == 0


def test_the_same_work_is_done_once(store: Store, make_test_context: Make) -> None:
    work = Work()
    first = commit(make_test_context(store), work)
    assert commit(make_test_context(store), work) == first
    assert work.times == 1


def test_whatever_the_result_depends_on_changes_the_address(context: Context) -> None:
    receipts = [
        commit(context, Work()),
        commit(context, Work(), rate=0.2),
        commit(context, Work(), seed=8),
        commit(context, Work(), inputs={"mix": commit(context, Work())}),
        commit(
            context, Work(), inputs={"mix": commit(context, Work("other"), rate=0.3)}
        ),
        commit_once(
            context,
            TASK,
            "select",
            config={"rate": 0.1},
            inputs={},
            seed=7,
            work=Work(),
        ),
    ]
    assert len({receipt.ref for receipt in receipts}) == 6


def test_the_order_of_names_does_not_change_the_address(context: Context) -> None:
    a, b = commit(context, Work(), seed=1), commit(context, Work(), seed=2)
    work = Work()
    first = commit_once(
        context,
        TASK,
        "train",
        config={"x": 1, "y": 2},
        inputs={"a": a, "b": b},
        seed=7,
        work=work,
    )
    again = commit_once(
        context,
        TASK,
        "train",
        config={"y": 2, "x": 1},
        inputs={"b": b, "a": a},
        seed=7,
        work=work,
    )
    assert first == again
    assert work.times == 1


def test_a_receipt_is_the_same_on_every_machine(
    make_test_context: Make, tmp_path: Path
) -> None:
    from components.storage.store import open_store

    stores = [open_store(f"file://{tmp_path}/store-{name}", {}) for name in "ab"]
    assert (
        len({commit(make_test_context(store), Work()).to_bytes() for store in stores})
        == 1
    )


def test_of_two_that_do_the_same_work_at_once_the_first_receipt_is_everybodys(
    store: Store, make_test_context: Make
) -> None:
    together = threading.Barrier(8)

    def do(number: int) -> Receipt:
        def work(folder: Path) -> Numbers:
            together.wait()
            (folder / "answer").write_text(f"of worker {number}")
            return Numbers({"worker": number})

        return commit(contexts[number], work)

    contexts = [make_test_context(store) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(do, range(8)))
    assert len({receipt.digest for receipt in receipts}) == 1
    winner = receipts[0].summary["worker"]
    assert (
        fetch(contexts[0], receipts[0], "answer").read_text() == f"of worker {winner}"
    )


def test_work_that_fails_leaves_no_receipt_and_no_files_and_can_be_done_again(
    context: Context,
) -> None:
    def failing(folder: Path) -> Numbers:
        (folder / "half").write_text("half")
        raise UserError("the learning rate is too high; lower it")

    with pytest.raises(UserError, match="lower it"):
        commit(context, failing)
    assert list(context.store.list("steps/")) == []
    assert list(context.store.list("objects/")) == []
    assert list(context.scratch.iterdir()) == []
    assert [(one.error, one.error_kind) for one in attempts_of(context)] == [
        ("the learning rate is too high; lower it", "UserError")
    ]
    assert commit(context, Work()).summary["steps"] == 3


def test_attempts_tell_of_time_memory_and_reuse(
    store: Store, make_test_context: Make
) -> None:
    first = make_test_context(store)
    first.charge("tokens", 5)
    receipt = commit(first, Work())
    done = attempts_of(first)[0]
    assert done.receipt == receipt.ref
    assert not done.reused
    assert done.costs == {"tokens": 5, "verify_seconds": 0.0}
    assert done.peak_memory_bytes > 1_000_000
    assert 0 <= done.work_seconds <= done.seconds
    commit(make_test_context(store), Work())
    assert [one.reused for one in attempts_of(first)] == [False, True]


def test_an_attempt_is_on_record_before_the_work_begins(context: Context) -> None:
    def looking(folder: Path) -> Numbers:
        seen.extend(attempts_of(context))
        return Numbers({})

    seen: list[Attempt] = []
    commit(context, looking)
    assert [(one.task, one.receipt, one.error) for one in seen] == [
        ("train-r1", "", "")
    ]
    assert [(one.seconds, one.work_seconds, one.reused) for one in seen] == [
        (0.0, 0.0, False)
    ]


def test_a_store_that_breaks_during_the_work_does_not_hide_why_the_work_failed(
    context: Context, tmp_path: Path
) -> None:
    def failing(folder: Path) -> Numbers:
        shutil.rmtree(tmp_path / "store")
        (tmp_path / "store").write_text("a file where the folder was")
        raise Transient("the queue is full")

    with pytest.raises(Transient, match="the queue is full"):
        commit(context, failing)


def test_a_store_that_cannot_be_used_is_found_before_the_work(
    context: Context, tmp_path: Path
) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    work = Work()
    with pytest.raises(UserError, match=f"{tmp_path}/store"):
        commit(context, work)
    assert work.times == 0


def test_a_file_name_that_is_no_key_is_refused(context: Context) -> None:
    def work(folder: Path) -> Numbers:
        (folder / "name with spaces").write_text("")
        return Numbers({})

    with pytest.raises(UserError, match="name with spaces"):
        commit(context, work)


def test_work_not_done_yet_has_no_receipt(context: Context) -> None:
    assert find_receipt(context, "train", "0123") is None
    with pytest.raises(Missing, match=r"steps/train/0123.json"):
        read_receipt(context, "train/0123")


def test_the_uri_of_a_receipt_leads_back_to_it(
    store: Store, make_test_context: Make
) -> None:
    context = make_test_context(store)
    receipt = commit(context, Work())
    assert ref_of_uri(context, receipt_uri(context, receipt)) == receipt.ref


def test_another_spelling_of_the_same_store_is_the_same_store(
    context: Context, tmp_path: Path
) -> None:
    assert (
        ref_of_uri(context, f"file://{tmp_path}//./store/steps/train/0123.json")
        == "train/0123"
    )


def test_a_summary_is_read_as_what_the_step_wrote(context: Context) -> None:
    written = StartSummary(
        counts={"train": 3},
        rejected={},
        parameters=7,
        base_digest="abc",
        dtype="float32",
        positions=None,
        supervised=True,
        first_mix="mix/0",
        base="prepare/0",
    )
    receipt = commit_once(
        context,
        TASK,
        "start",
        config={},
        inputs={},
        seed=0,
        work=lambda folder: written,
    )
    assert read_summary(read_receipt(context, receipt.ref), StartSummary) == written
