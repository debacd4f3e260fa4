"""S7: what is released can be verified, from the champion to the base.

A campaign of ten rounds in two runs, and a release. Every receipt of it is changed in turn, sealed
again with a checksum that fits, and every stored file: `verify` finds each change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from components.canonical import canonical_json, digest_of
from components.cli.verify import check_releases, check_run
from components.contracts.releases import BaseModelLine, Line
from components.errors import Corrupt, UserError
from components.runtime import ledger
from components.runtime.context import Context
from components.runtime.receipts import Receipt
from components.storage import keys
from tests.promises.counting import Case
from tests.unit.handmade import RECIPE, Campaign

NUM_ROUNDS = 10
NAME = "by-hand"


def released_campaign(context: Context) -> tuple[Campaign, Receipt]:
    """Return the last run of a campaign of ten rounds, the second of two runs, and its release."""
    first = Campaign(context)
    first.prepare()
    for number in range(NUM_ROUNDS // 2):
        first.round(number, 0.1 * number, "promoted")
    later = Campaign(
        context, {**RECIPE, "decide": {**RECIPE["decide"], "max_rounds": NUM_ROUNDS}}
    )
    later.go_on(first)
    for number in range(NUM_ROUNDS // 2, NUM_ROUNDS):
        later.round(number, 0.09 * number, "promoted")
    assert later.last is not None
    state = later.last
    released = later.publish(target_met=True)
    line = Line(
        name=NAME,
        number=1,
        action="release",
        version="v1",
        prefix=keys.model_prefix(NAME, "v1"),
        publish=released.ref,
        publish_digest=released.digest,
        weights=ledger.weights_digest(released, ""),
        files={
            name: released.objects[name].sha256 for name in ledger.model_files(released)
        },
        run_id=later.run_id,
        state=state.ref,
        recipe="by hand",
        base=BaseModelLine(source="scratch", prepared=later.prepared.ref, digest="abc"),
        split="test",
        score=0.9,
        interval=(0.85, 0.95),
        opening=None,
        predecessor=None,
        asked_by="",
        at="2026-01-01T00:00:00Z",
    )
    assert ledger.append_line(context, line)
    return later, released


def cases(context: Context, store_folder: Path) -> Iterator[Case]:
    """Yield a case for each receipt and each object of the campaign, changed."""
    campaign, _ = released_campaign(context)
    yield Case("nothing changed", partial(_check, context, campaign.run_id, None))
    for path in sorted((store_folder / "steps").rglob("*.json")):
        name = path.relative_to(store_folder).as_posix()
        yield Case(
            name, partial(_changed, context, campaign.run_id, path, _other_receipt)
        )
    for path in sorted((store_folder / "objects").rglob("*")):
        if path.is_file() and path.stat().st_size:
            name = path.relative_to(store_folder).as_posix()
            yield Case(
                name, partial(_changed, context, campaign.run_id, path, _other_bytes)
            )
    for path in (
        store_folder / keys.model_prefix(NAME, "v1") / "model.safetensors",
        store_folder / keys.release_key(NAME, 1),
    ):
        name = path.relative_to(store_folder).as_posix()
        yield Case(
            name, partial(_changed, context, campaign.run_id, path, _other_bytes)
        )


def _other_receipt(data: bytes) -> bytes:
    """Return a receipt with another seed, whose checksum fits."""
    document = json.loads(data)
    del document["checksum"]
    document["seed"] += 1
    return canonical_json({**document, "checksum": digest_of(document)})


def _other_bytes(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _changed(context: Context, run_id: str, path: Path, change: object) -> str:
    assert callable(change)
    original = path.read_bytes()
    _write(path, change(original))
    try:
        return _check(context, run_id, path)
    finally:
        _write(path, original)


def _write(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def _check(context: Context, run_id: str, changed: Path | None) -> str:
    """Return what is wrong with the findings over a changed file; None: nothing was changed."""
    try:
        of_release = check_releases(context, NAME).damaged
    except (Corrupt, UserError) as error:
        # So a broken ledger is told. Any other error is a fault of `verify`, and of this case.
        of_release = [str(error)]
    if changed is None:
        damaged = of_release + check_run(context, run_id).damaged
        return "; ".join(damaged)
    if not of_release:
        return "the release is said to be whole"
    return ""
