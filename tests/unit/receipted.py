"""Work of a step in small, and the receipts it leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import RootModel

from components.canonical import canonical_json, digest_of
from components.runtime.attempts import Attempt, Task
from components.runtime.context import Context
from components.runtime.receipts import Receipt, commit_once
from components.storage import keys
from components.storage.store import Store

TASK = Task(run_id="run-1", name="train-r1", round=1)
Make = Callable[[Store], Context]


class Numbers(RootModel[dict[str, int | float]]):
    """A summary."""


class Work:
    """A small step that counts how often it was done."""

    def __init__(self, text: str = "weights") -> None:
        self.text = text
        self.times = 0

    def __call__(self, folder: Path) -> Numbers:
        self.times += 1
        (folder / "model" / "deep").mkdir(parents=True)
        (folder / "model" / "weights.bin").write_text(self.text)
        (folder / "model" / "deep" / "config.json").write_text("{}")
        (folder / "log.jsonl").write_text("")
        return Numbers({"steps": 3, "final_loss": 0.5})


def commit(
    context: Context,
    work: Callable[[Path], Numbers],
    *,
    rate: float = 0.1,
    seed: int = 7,
    inputs: dict[str, Receipt] | None = None,
) -> Receipt:
    return commit_once(
        context,
        TASK,
        "train",
        config={"rate": rate},
        inputs=inputs or {},
        seed=seed,
        work=work,
    )


def attempts_of(context: Context) -> list[Attempt]:
    addresses = list(context.store.list(keys.attempts_prefix(TASK.run_id)))
    return [Attempt.from_bytes(context.store.get_bytes(key)) for key in addresses]


def rewrite(
    context: Context, receipt: Receipt, change: Callable[[dict[str, Any]], object]
) -> None:
    """Put a changed document, with a checksum that fits, in the receipt's place."""
    document = receipt.model_dump(mode="json")
    change(document)
    document["checksum"] = digest_of(document)
    context.store.put_bytes(
        keys.receipt_key(receipt.step, receipt.key), canonical_json(document)
    )
