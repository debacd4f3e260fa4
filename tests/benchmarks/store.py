"""Commits and verified reads beside plain boto3.

`python -m tests.benchmarks.store` commits a file of 1 GiB to an S3 server on this machine, with its
receipt, and reads it back with its digest checked; boto3's `upload_file` and `download_file`, with
their defaults, do the same with the same bytes and check nothing. The two take turns, so that other
work on the machine hits both alike; the figures are medians of the ratios.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import RootModel

from components.runtime.attempts import Task
from components.runtime.context import Context, make_context
from components.runtime.receipts import Receipt, commit_once, fetch
from components.storage.cache import Cache
from components.storage.s3_parts import digest_of
from tests.benchmarks.figures import record
from tests.conftest import BUCKET, S3Server

COMMAND = "python -m tests.benchmarks.store"
BLOCK_BYTES = 1 << 20
FILE = "weights.bin"
COMMIT_BOUND = READ_BOUND = 1.25


class Nothing(RootModel[dict[str, int]]):
    """The summary of work without one."""


def seconds_of(work: Callable[[], object]) -> float:
    """Return the wall time of some work."""
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def one_turn(
    server: S3Server, context: Context, folder: Path, number: int, mebibytes: int
) -> tuple[float, float]:
    """Return (commit, read) over boto3's times for the same new bytes."""
    source = folder / f"source-{number}"
    with source.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(BLOCK_BYTES))
        os.fsync(file.fileno())
    receipts: list[Receipt] = []
    client = server.client()
    key = f"plain-{number}"
    plain = folder / key

    def commit() -> None:
        def work(output: Path) -> Nothing:
            os.link(source, output / FILE)
            return Nothing({})

        task = Task(run_id="run", name="train-r1", round=1)
        config = {"number": number}
        receipts.append(
            commit_once(
                context, task, "train", config=config, inputs={}, seed=0, work=work
            )
        )

    def read() -> None:
        empty = Cache(folder / f"cache-{number}")
        ref = receipts[0].objects[FILE]
        fetch(replace(context, cache=empty), receipts[0], FILE)
        assert ref.size == mebibytes * BLOCK_BYTES

    def plain_upload() -> None:
        client.upload_file(str(source), BUCKET, key)

    def plain_download() -> None:
        client.download_file(BUCKET, key, str(plain))

    commits = _in_turns(number, commit, plain_upload)
    reads = _in_turns(number, read, plain_download)
    assert digest_of(plain) == receipts[0].objects[FILE].sha256
    plain.unlink()
    source.unlink()
    shutil.rmtree(folder / f"cache-{number}")
    print(
        f"turn {number}: commit {commits[0]:.2f} s, boto3 {commits[1]:.2f} s",
        flush=True,
    )
    print(f"turn {number}: read {reads[0]:.2f} s, boto3 {reads[1]:.2f} s", flush=True)
    return commits[0] / commits[1], reads[0] / reads[1]


def _in_turns(
    number: int, ours: Callable[[], None], theirs: Callable[[], None]
) -> tuple[float, float]:
    """Return (our seconds, their seconds); who begins changes from turn to turn."""
    if number % 2:
        their_seconds = seconds_of(theirs)
        return seconds_of(ours), their_seconds
    our_seconds = seconds_of(ours)
    return our_seconds, seconds_of(theirs)


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ratchet-store-") as name:
        folder = Path(name)
        server = S3Server(folder / "server")
        server.start()
        try:
            environment = {**server.environment, "RATCHET_CACHE": str(folder / "cache")}
            context = make_context(server.new_uri(), environment)
            # The first call of either looks up descriptions of the service, and digests our code.
            one_turn(server, context, folder, -1, 32)
            turns = [
                one_turn(server, context, folder, number, options.mebibytes)
                for number in range(options.turns)
            ]
        finally:
            server.stop()
    commits, reads = zip(*turns, strict=True)
    command = COMMAND
    if options.mebibytes != parser.get_default("mebibytes"):
        command += f" --mebibytes {options.mebibytes}"
    if options.turns != parser.get_default("turns"):
        command += f" --turns {options.turns}"
    for figure, ratios, bound in (
        ("store.commit_vs_boto3", commits, COMMIT_BOUND),
        ("store.read_vs_boto3", reads, READ_BOUND),
    ):
        shown = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
        note = f"turns {shown}; median of the ratios of the wall times, each in turn"
        record(figure, statistics.median(ratios), "×", f"≤ {bound}", command, 0, note)


if __name__ == "__main__":
    main()
