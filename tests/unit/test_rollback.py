"""A rollback is a line of the ledger, and damage of the ledger is told."""

from __future__ import annotations

import json

import pytest

from components.canonical import sealed
from components.cli.releases import roll_back
from components.cli.verify import check_releases
from components.contracts.releases import Line
from components.errors import Corrupt, UserError
from components.runtime import ledger
from components.runtime.context import Context
from components.storage import keys
from tests.unit.measuring import model
from tests.unit.releasing import (
    NAME,
    campaign,
    publish,
    taught_by,
)

pytestmark = pytest.mark.process


def test_a_rollback_is_a_new_line(context: Context) -> None:
    base, first, second = (model(context, seed) for seed in range(3))
    for champion in (first, second):
        publish(
            context, campaign(context, base, taught_by(context, [champion])), champion
        )
    earlier = ledger.read_lines(context, NAME)
    line = roll_back(context, NAME, earlier[0].version)
    assert (line.number, line.action, line.returns_to, line.predecessor) == (
        3,
        "rollback",
        1,
        2,
    )
    assert ledger.read_lines(context, NAME) == [*earlier, line]
    assert (
        ledger.release_in_force(context, f"release://{NAME}").version
        == earlier[0].version
    )
    pinned = ledger.release_in_force(context, f"release://{NAME}@{earlier[1].version}")
    assert pinned.number == 2
    with pytest.raises(UserError, match="in force already"):
        roll_back(context, NAME, "1")
    with pytest.raises(UserError, match="has no version 'r9'; there are"):
        roll_back(context, NAME, "r9")
    with pytest.raises(UserError, match="nothing was released under the name 'other'"):
        roll_back(context, "other", "1")
    # A retraining that ends with the same weights undoes no rollback, and opens no prompts.
    decide = {"goal": {"threshold": 0.5}}
    retrained = campaign(context, base, taught_by(context, [second]), decide=decide)
    refused = publish(context, retrained, second)
    assert not refused.released
    assert (
        f"which was rolled back; `rollback {NAME} {earlier[1].version}` puts it"
        in refused.why
    )
    assert ledger.read_lines(context, NAME) == [*earlier, line]
    # The next release is compared with the one in force.
    third = model(context, 3)
    summary = publish(
        context, campaign(context, base, taught_by(context, [third])), third
    )
    assert summary.rivals[1].name == f"release 3 ({earlier[0].version})"
    context.store.delete(f"{earlier[1].prefix}model.safetensors")
    with pytest.raises(Corrupt, match=r"model.safetensors is gone; restore it"):
        roll_back(context, NAME, "2")


def test_a_rollback_withdraws_what_it_passes_over_until_it_is_in_force_again() -> None:
    def line(number: int, weights: str, returns_to: int | None = None) -> Line:
        action = "rollback" if returns_to else "release"
        fields = {
            "number": number,
            "weights": weights,
            "action": action,
            "returns_to": returns_to,
        }
        return Line.model_construct(**fields)  # type: ignore[arg-type]

    names = "abc"
    lines = [line(number, name) for number, name in enumerate(names, 1)]
    lines.append(line(4, "a", returns_to=1))
    assert [ledger.withdrawn_release(lines, name) for name in names] == [
        None,
        *lines[1:3],
    ]
    lines.append(line(5, "b", returns_to=2))
    assert [ledger.withdrawn_release(lines, name) for name in names] == [
        None,
        None,
        lines[2],
    ]


def test_a_damaged_ledger_is_told(context: Context) -> None:
    base, champion = model(context, 0), model(context, 1)
    summary = publish(
        context, campaign(context, base, taught_by(context, [champion])), champion
    )
    context.store.put_bytes(f"{summary.prefix}config.json", b"{}")
    assert any("config.json" in line for line in check_releases(context, NAME).damaged)
    key = keys.release_key(NAME, 1)
    stored = json.loads(context.store.get_bytes(key))
    context.store.put_bytes(key, json.dumps({**stored, "score": 0.125}).encode())
    with pytest.raises(Corrupt, match="its checksum does not fit"):
        ledger.read_lines(context, NAME)
    line = {name: value for name, value in stored.items() if name != "checksum"}
    context.store.put_bytes(key, sealed({**line, "files": {}}))
    assert any(
        "not the receipt that was released" in one
        for one in check_releases(context, NAME).damaged
    )
    whole = context.store.get_bytes(key)
    for cut in (b"[]", b"", whole[: len(whole) // 2], whole[:-1]):
        context.store.put_bytes(key, cut)
        with pytest.raises(Corrupt, match="not a line of the ledger"):
            ledger.read_lines(context, NAME)
    # A line that is gone: a new one in its place would bring back those after it.
    context.store.put_bytes(key, whole)
    context.store.put_bytes(keys.release_key(NAME, 3), whole)
    with pytest.raises(
        Corrupt, match=r"000002.json is gone, although .*000003.json is there"
    ):
        ledger.read_lines(context, NAME)
    context.store.delete(key)
    with pytest.raises(Corrupt, match=r"000001.json is gone"):
        ledger.release_in_force(context, f"release://{NAME}")
