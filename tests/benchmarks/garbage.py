"""Room that `gc` gives back over a campaign of ten rounds: `python -m tests.benchmarks.garbage`.

The campaign is made by hand, with weights of 4 MB a round; every third candidate is promoted. After
each round the garbage is condemned and deleted, as if the grace period had passed in between. The
figure is the share of the bytes that the receipts of rejected candidates alone held.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from components.cli.collect.collection import collect
from components.cli.collect.marking import Policy
from components.contracts.summaries import TrainSummary
from components.runtime.receipts import Receipt, read_receipt
from components.storage.objects import find
from components.storage.store import Store, open_store
from tests.benchmarks.figures import record
from tests.conftest import context_in
from tests.unit.handmade import Campaign

COMMAND = "python -m tests.benchmarks.garbage"
NUM_ROUNDS = 10
WEIGHT_BYTES = 4_000_000
BOUND = 0.95


class HeavyCampaign(Campaign):
    """A campaign whose weights have a size."""

    def _training(self, folder: Path, number: int) -> TrainSummary:
        summary = super()._training(folder, number)
        weights = bytes([number]) * WEIGHT_BYTES
        (folder / "model" / "model.safetensors").write_bytes(weights)
        return summary


def measure(folder: Path) -> tuple[float, int, int]:
    """Return (share given back, largest size of the store after a round, its size without gc)."""
    store = open_store((folder / "store").as_uri(), {})
    context = context_in(folder, store)
    campaign = HeavyCampaign(context)
    campaign.prepare()
    policy = Policy()
    deleted = 0
    largest = 0
    for number in range(NUM_ROUNDS):
        campaign.round(
            number, 0.3 + number / 100, "rejected" if number % 3 else "promoted"
        )
        for _ in range(2):
            account = collect(context, policy, grace_seconds=0.0, delete=True)
            deleted += account.deleted.bytes
        largest = max(largest, _stored_bytes(folder))
    rejected = [
        read_receipt(context, one.receipts["train"])
        for one in campaign.state.history
        if one.verdict == "rejected"
    ]
    held = sum(ref.size for receipt in rejected for ref in receipt.objects.values())
    kept = sum(_still_stored(context.store, receipt) for receipt in rejected)
    assert deleted >= held - kept
    return 1.0 - kept / held, largest, _stored_bytes(folder) + deleted


def _still_stored(store: Store, receipt: Receipt) -> int:
    return sum(
        ref.size
        for ref in receipt.objects.values()
        if find(store, ref.sha256, ref.size) is not None
    )


def _stored_bytes(folder: Path) -> int:
    return sum(
        path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file()
    )


def main() -> None:
    """Measure and record."""
    with tempfile.TemporaryDirectory(prefix="ratchet-garbage-") as name:
        share, largest, without = measure(Path(name))
    print(f"reclaimed {share:.4f}; {largest:,} bytes at most, {without:,} without gc")
    note = (
        f"the store had {largest / 1e6:.0f} MB at most, instead of {without / 1e6:.0f} MB, over "
        f"{NUM_ROUNDS} rounds of which each third was promoted; logs of rejected trainings stay"
    )
    record(
        "gc.reclaimed_share", share, "share", f"≥ {BOUND}", COMMAND, seed=0, note=note
    )


if __name__ == "__main__":
    main()
