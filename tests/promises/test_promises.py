"""The promises of docs/promises.md that are proved in minutes: each prints its count."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from components.runtime.context import Context
from components.storage.store import Store, open_store
from tests.conftest import S3Server, context_in
from tests.promises import (
    chain,
    collections,
    corruption,
    garbage,
    histories,
    memory,
    models,
    names,
    races,
    s3_faults,
    steps,
    texts,
    transfers,
    worse_models,
)
from tests.promises.counting import Count, count
from tests.security import escapes
from tests.unit.forked import PRELOADED

pytestmark = pytest.mark.process

SOAK = int(os.environ.get("RATCHET_SOAK", "1"))
"""So many times as many cases."""
ALL = SOAK > 1 or os.environ.get("RATCHET_PROMISES") == "all"
"""The numbers of cases that are recorded; `make test` has time for fewer."""


@pytest.fixture(scope="module")
def of_steps() -> Iterator[dict[str, Count]]:
    """Return promise → outcome, of those that are proved by the steps of a small campaign."""
    # Not in tmp_path: a user who may attack the run has to come as far as to its folder. In memory,
    # where there is such a folder: each step syncs a hundred files.
    memory_folder = Path("/dev/shm")
    parent = memory_folder if os.access(memory_folder, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="ratchet-promises-", dir=parent) as name:
        folder = Path(name)
        folder.chmod(0o755)
        forkserver = multiprocessing.get_context("forkserver")
        forkserver.set_forkserver_preload(PRELOADED)
        amount = steps.ALL if ALL else steps.FEW
        process = forkserver.Process(target=steps.carry_out, args=(folder, amount))
        process.start()
        process.join()
        assert process.exitcode == 0
        counts: dict[str, Count] = {}
        for line in (folder / steps.OUTCOMES).read_text().splitlines():
            promise, case, fault = json.loads(line)
            outcome = counts.setdefault(promise, Count(promise))
            outcome.add(case, fault)
        yield counts


@pytest.mark.parametrize(
    ("promise", "few", "recorded"),
    [("R5", 6, 380), ("R6", 4, 90), ("S5", 100, 100), ("S8", 25, 25)],
)
def test_promises_of_steps(
    of_steps: dict[str, Count], promise: str, few: int, recorded: int
) -> None:
    if reason := steps.why_not(promise):
        pytest.skip(f"{promise} cannot be proved here: {reason}")
    outcome = of_steps[promise]
    print(outcome, flush=True)
    assert outcome.broken[:3] == []
    assert outcome.total >= (recorded if ALL else few)


def test_r1_a_killed_process_loses_at_most_what_is_in_flight(
    of_steps: dict[str, Count], s3_server: S3Server
) -> None:
    outcome = of_steps["R1"]
    for case in transfers.cases_of(s3_server, per_direction=30 if ALL else 2):
        outcome.add(case.name, case.check())
    print(outcome, flush=True)
    assert outcome.broken[:3] == []
    assert outcome.total >= (660 if ALL else 19)


def test_r2_faults_of_an_s3_server_are_ridden_out_or_named(s3_server: S3Server) -> None:
    servers = s3_faults.Servers(s3_server)
    try:
        outcome = count("R2", s3_faults.cases(servers), workers=16)
    finally:
        servers.close()
    assert outcome.broken[:3] == []
    assert outcome.total >= 216


def test_r3_no_corrupted_byte_is_consumed(context: Context, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with closing(corruption.Checkpoint(context, folder)) as checkpoint:
        cases = corruption.cases(
            context, folder, checkpoint, per_kind=270 * SOAK, per_other_kind=60 * SOAK
        )
        outcome = count("R3", cases)
    assert outcome.broken[:3] == []
    assert outcome.total >= 5500


def test_r4_of_writers_at_once_one_wins(
    context: Context, file_store: Store, s3_store: Store
) -> None:
    num_threads = 64 if ALL else 16
    in_folder = races.thread_cases(
        file_store, count=100 * SOAK, num_threads=num_threads
    )
    in_bucket = races.thread_cases(s3_store, count=20 * SOAK, num_threads=num_threads)
    of_processes = races.process_cases(
        file_store.root, file_store, rounds=200 * SOAK, num_processes=8
    )
    stores = {"folder": file_store, "bucket": s3_store}
    ledgers = histories.cases(context, stores, count=500 * SOAK if ALL else 20)
    outcome = count("R4", [*in_folder, *in_bucket, *of_processes, *ledgers])
    assert outcome.broken[:3] == []
    assert outcome.total >= (820 if ALL else 340)


def test_r7_what_only_looks_better_is_never_a_champion(context: Context) -> None:
    outcome = count("R7", worse_models.cases(context))
    assert outcome.broken[:3] == []
    assert outcome.total >= 50


def test_r8_memory_is_bounded_by_settings(tmp_path: Path) -> None:
    outcome = count(
        "R8", memory.cases(tmp_path, mebibytes=2048 if ALL else 128), workers=2
    )
    assert outcome.broken[:3] == []
    assert outcome.total >= 10


def test_s1_each_row_of_garbage_is_counted(tmp_path: Path) -> None:
    outcome = count("S1", garbage.cases(tmp_path, 10_000 * SOAK))
    assert outcome.broken[:3] == []
    assert outcome.total >= 10_000


def test_s2_names_and_uris_stay_inside(context: Context, tmp_path: Path) -> None:
    outcome = count("S2", names.cases(context, tmp_path))
    assert outcome.broken[:3] == []
    assert outcome.total >= 200


def test_s3_a_model_brings_no_code(tmp_path: Path) -> None:
    outcome = count("S3", models.cases(tmp_path))
    assert outcome.broken[:3] == []
    assert outcome.total >= 60


def test_s4_text_of_data_stays_text(context: Context) -> None:
    outcome = count("S4", texts.cases(context))
    assert outcome.broken[:3] == []
    assert outcome.total >= 100


def test_s6_no_program_of_a_model_leaves_its_sandbox(tmp_path: Path) -> None:
    # Each attempt in a process of its own takes minutes.
    broken = escapes.escaped(tmp_path, together=SOAK == 1)
    outcome = Count("S6", total=escapes.NUM_ATTEMPTS, broken=broken)
    print(outcome, flush=True)
    assert outcome.broken == []
    assert outcome.total >= 100


def test_s7_what_is_released_can_be_verified(context: Context, tmp_path: Path) -> None:
    outcome = count("S7", chain.cases(context, tmp_path / "store"))
    assert outcome.broken[:3] == []
    assert outcome.total >= 100


def test_s9_a_collection_takes_nothing_that_is_needed(tmp_path: Path) -> None:
    def make_context(name: str) -> Context:
        return context_in(
            tmp_path / name, open_store((tmp_path / name / "store").as_uri(), {})
        )

    outcome = count("S9", collections.cases(make_context, 300 * SOAK if ALL else 12))
    assert outcome.broken[:3] == []
    assert outcome.total >= (300 if ALL else 12)
