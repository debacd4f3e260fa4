"""Rounds of a campaign that tries hard prompts again with a hint: prompts, states, and what came of
them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from components.canonical import canonical_json
from components.contracts.rows import Prompt
from components.contracts.state import State
from components.contracts.summaries.select import HintedCounts
from components.runtime.context import Context
from components.runtime.receipts import Receipt, receipt_uri
from tests.unit import crafted
from tests.unit.crafted import PLAN, recipe_of, store
from tests.unit.selecting import summary_of

TEMPLATE = "{prompt}({answer})"


ask = partial(crafted.ask, verifier="numeric")
"""A prompt whose answer is the last number that is said."""
SUMS = [ask(f"{a}+{b}=", str(a + b)) for a in range(5) for b in range(5)]
Said = list[tuple[Prompt, Sequence[str]]]
HARD = [one for one in SUMS if int(str(one.reference["answer"])) % 2]
EASY = [one for one in SUMS if one not in HARD]


def hinted_counts(receipt: Receipt) -> HintedCounts:
    """What became of a round's samples with a hint."""
    counts = summary_of(receipt).hinted
    assert counts is not None
    return counts


def begun(
    context: Context,
    prompts: Sequence[Prompt],
    *,
    champion: Receipt | None = None,
    hints: dict[str, Any] | None,
    audit: Sequence[Prompt] = (),
    validation: Sequence[Prompt] = (),
    select: dict[str, Any] | None = None,
    samples: int = 4,
    peers: int = 1,
    **section: Any,
) -> str:
    """URI of a state after round 0 of a campaign whose rounds ask `prompts`."""
    settings = {
        "prompts_per_round": len(prompts),
        "max_new_tokens": 8,
        "batch_size": 16,
        "shards": 1,
        **section,
    }
    recipe = recipe_of(
        generate={**settings, "hints": hints},
        select={
            "minhash_threshold": 1.0,
            "min_accepted": 1,
            "max_length_ratio": 10.0,
            **(select or {}),
        },
        train={"num_peers": peers},
    )
    splits = {
        "unlabelled": prompts,
        "audit": audit,
        "validation": validation,
        "train": (),
        "test": (),
    }
    prepared = store(
        context,
        "prepare",
        {f"splits/{name}.jsonl": own for name, own in splits.items()},
        {},
    )
    state = State(
        run_id="crafted-run",
        prepared=prepared.ref,
        round=0,
        champion_round=0,
        plan=PLAN.model_copy(update={"samples_per_prompt": samples}),
        champion=champion.ref if champion is not None else "train/champion",
    )
    files = {
        name: canonical_json(one.model_dump(mode="json"))
        for name, one in (("recipe.json", recipe), ("state.json", state))
    }
    return receipt_uri(context, store(context, "start", files, {}))


def after(context: Context, uri: str, *selections: Receipt) -> str:
    """URI of the state of the same campaign after as many rounds as there are selections."""
    start = json.loads(
        context.store.get_bytes(uri.removeprefix(f"{context.store.root}/"))
    )
    state = State.model_validate_json(
        context.store.get_bytes(_object(start, "state.json"))
    )
    changes = {
        "round": len(selections),
        "selections": tuple(one.ref for one in selections),
    }
    files = {
        "recipe.json": context.store.get_bytes(_object(start, "recipe.json")),
        "state.json": canonical_json(
            state.model_copy(update=changes).model_dump(mode="json")
        ),
    }
    return receipt_uri(context, store(context, "start", files, changes))


def _object(receipt: dict[str, Any], name: str) -> str:
    sha256 = str(receipt["objects"][name]["sha256"])
    return f"objects/{sha256[:2]}/{sha256}"
