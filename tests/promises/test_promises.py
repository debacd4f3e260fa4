"""The promises of docs/promises.md that are proved in minutes: each prints its count."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.runtime.context import Context
from components.storage.store import Store
from tests.conftest import S3Server
from tests.promises import (
    chain,
    corruption,
    garbage,
    memory,
    models,
    names,
    races,
    s3_faults,
    texts,
)
from tests.promises.counting import Count, count
from tests.security import escapes

pytestmark = pytest.mark.process

SOAK = int(os.environ.get("RATCHET_SOAK", "1"))
"""So many times as many cases."""


def test_r2_faults_of_an_s3_server_are_ridden_out_or_named(s3_server: S3Server) -> None:
    servers = s3_faults.Servers(s3_server)
    try:
        outcome = count("R2", s3_faults.cases(servers), workers=16)
    finally:
        servers.close()
    assert outcome.broken[:3] == []
    assert outcome.total >= 216


def test_r3_no_corrupted_byte_is_consumed(context: Context, tmp_path: Path) -> None:
    outcome = count("R3", corruption.cases(context, tmp_path / "store", per_kind=270 * SOAK))
    assert outcome.broken[:3] == []
    assert outcome.total >= 4000


def test_r4_of_writers_at_once_one_wins(file_store: Store, s3_store: Store) -> None:
    in_folder = races.thread_cases(file_store, count=100 * SOAK, num_threads=16)
    in_bucket = races.thread_cases(s3_store, count=20 * SOAK, num_threads=16)
    of_processes = races.process_cases(
        file_store.root, file_store, rounds=200 * SOAK, num_processes=8
    )
    outcome = count("R4", [*in_folder, *in_bucket, *of_processes])
    assert outcome.broken[:3] == []
    assert outcome.total >= 320


def test_r8_memory_is_bounded_by_settings(tmp_path: Path) -> None:
    outcome = count("R8", memory.cases(tmp_path, mebibytes=2048 if SOAK > 1 else 128), workers=2)
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
