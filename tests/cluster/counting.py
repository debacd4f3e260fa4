"""A step that counts and saves each number: a training without the minutes and the memory of one.

Its text is the source of a KFP component, in place of that of `train`. What surrounds the work is a
step's own: store, receipt, attempt records, exit status. Its first try waits at a number until
something ends it; a later one goes on from what is saved.
"""

import json
import signal
import time
from pathlib import Path

from kfp.dsl import Dataset, Input, Model, Output

from components.contracts.summaries.summary import Summary
from components.errors import Transient
from components.runtime.attempts import Task
from components.runtime.context import Context
from components.runtime.entrypoints import run_step
from components.runtime.receipts import Receipt, commit_once
from components.storage.keys import progress_key, progress_prefix

BEAT_SECONDS = 0.5
_FIRST_TRY = "first-try"


class Counted(Summary):
    """The summary of the receipt."""

    last: int


def train(state: str, mix: Input[Dataset], candidate: Output[Model]) -> None:
    """Count to `last`, and wait at `wait_at` in the first try; the artifact has both."""
    numbers = json.loads(Path(mix.path).read_text(encoding="utf-8"))
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))

    def count(context: Context, folder: Path) -> Counted:
        prefix = progress_prefix("train", "count")
        saved = {key.rpartition("/")[2] for key in context.store.list(prefix)}
        waits = _FIRST_TRY not in saved
        first = len(saved - {_FIRST_TRY})
        context.progress.note(f"going on from {first}")
        for number in range(first, numbers["last"]):
            if waits and number == numbers["wait_at"]:
                _save(context, _FIRST_TRY)
                context.progress.note(f"waiting at {number}")
            while waits and number == numbers["wait_at"]:
                # Again and again: a store that goes away is noticed.
                _save(context, _FIRST_TRY)
                time.sleep(BEAT_SECONDS)
                if signals:
                    raise Transient(f"stopped by SIGTERM at {number}")
            _save(context, f"{number:03d}")
        (folder / "count").write_text(str(numbers["last"]), encoding="utf-8")
        return Counted(last=numbers["last"])

    def step(context: Context) -> Receipt:
        return commit_once(
            context,
            Task(run_id="count", name="train-r0", round=0),
            "train",
            config={"last": numbers["last"]},
            inputs={},
            seed=0,
            work=lambda folder: count(context, folder),
        )

    run_step(state, step, candidate)


def _save(context: Context, name: str) -> None:
    context.store.put_bytes(progress_key("train", "count", name), b"saved")
