"""Adapters that have nothing to go on from are told before any task, where the state shows it."""

from __future__ import annotations

from typing import Any

import pytest

from components.canonical import canonical_json
from components.cli.local.resuming import check_resumed
from components.contracts.recipe_file import parse_recipe
from components.errors import Missing, UserError
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import receipt_uri
from tests.unit.crafted import Plain, prepare, recipe_of, store

FULL = {"model/model.safetensors": b"weights"}
ADAPTED = {**FULL, "adapter/adapter_model.safetensors": b"factors"}


def state_with(context: Context, files: dict[str, bytes] | None, *, missing: bool = False) -> str:
    """URI of a state whose champion has these files; None: the base is the champion."""
    start = prepare(context, recipe_of())
    campaign = load_campaign(context, receipt_uri(context, start))
    champion = campaign.prepared.ref
    if files is not None:
        champion = store(context, "train", files, Plain({})).ref
    if missing:
        champion = "train/none"
    changes = {"start": start.ref, "champion": champion, "round": 0}
    state = campaign.state.model_copy(update=changes).model_dump(mode="json")
    decided = store(context, "decide", {"state.json": canonical_json(state)}, Plain({}))
    return receipt_uri(context, decided)


def check(context: Context, uri: str, **train: Any) -> None:
    document = recipe_of().model_dump(mode="json", by_alias=True)
    document["train"] |= train
    check_resumed(context, uri, parse_recipe(document))


def test_a_champion_that_was_trained_in_full_has_no_adapter_to_go_on_from(context: Context) -> None:
    uri = state_with(context, FULL)
    for lora in ({}, {"rank": 2}, {"rank": 4, "unfrozen_layers": 1}):
        with pytest.raises(UserError, match=r"train\.lora: the champion .* trained in full"):
            check(context, uri, lora=lora)
    check(context, uri)
    check(context, uri, lora={}, init_from="base")


@pytest.mark.parametrize("files", [None, ADAPTED])
def test_adapters_go_on_beside_the_base(context: Context, files: dict[str, bytes] | None) -> None:
    uri = state_with(context, files)
    check(context, uri, lora={"rank": 2})
    check(context, uri)


def test_a_champion_that_is_gone_is_named(context: Context) -> None:
    with pytest.raises(Missing, match="train/none"):
        check(context, state_with(context, None, missing=True), lora={})
