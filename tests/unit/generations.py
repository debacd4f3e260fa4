"""Rounds to sample for, with a tiny champion: a state, a champion and prompts in a store."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.canonical import canonical_json
from components.contracts.rows import Prompt, Sample, TrainingRow, read_rows
from components.contracts.state import Plan, State
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, receipt_uri
from tests.unit.crafted import PLAN, ask, prepare_summary, recipe_of, store
from tests.unit.tiny import save_tiny

PROMPTS = [
    ask("".join(str((7 * n + m) % 10) for m in range(1 + n % 9)) + f"{n}=", "0")
    for n in range(24)
]
"""Twenty-four questions of two to twelve characters."""


def begun(
    context: Context,
    *,
    prompts: list[Prompt] = PROMPTS,
    texts: Sequence[TrainingRow] = (),
    select: dict[str, Any] | None = None,
    architecture: str = "llama-nope",
    peers: int = 1,
    plan: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    **generate: Any,
) -> str:
    """URI of a state whose champion is a tiny random model, and whose next round asks `prompts`, or
    goes on with `texts` where `from` says so."""
    settings = {
        "prompts_per_round": len(prompts),
        "max_new_tokens": 12,
        "batch_size": 12,
        "shards": 1,
        **generate,
    }
    recipe = recipe_of(
        generate=settings,
        select=select or {},
        train={"num_peers": peers, **(train or {})},
    )
    splits: dict[str, Sequence[Prompt] | Sequence[TrainingRow]] = {
        "splits/unlabelled.jsonl": prompts,
        "splits/train.jsonl": texts,
        "splits/validation.jsonl": [],
    }
    prepared = store(context, "prepare", splits, prepare_summary())
    champion = _champion(context, architecture, peers, model or {})
    state = State(
        run_id="crafted-run",
        prepared=prepared.ref,
        champion=champion.ref,
        champion_round=0,
        round=0,
        plan=Plan.model_validate(
            {**PLAN.model_dump(), "samples_per_prompt": 3, **(plan or {})}
        ),
    )
    files = {
        "recipe.json": canonical_json(recipe.model_dump(mode="json")),
        "state.json": canonical_json(state.model_dump(mode="json")),
    }
    return receipt_uri(context, store(context, "start", files, {}))


def _champion(
    context: Context, architecture: str, peers: int, model: dict[str, Any]
) -> Receipt:
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for peer in range(peers):
            name = "model" if peer == 0 else f"peer-{peer}"
            folder = save_tiny(Path(scratch) / name, architecture, seed=peer, **model)
            files |= {
                f"{name}/{path.name}": path.read_bytes()
                for path in sorted(folder.iterdir())
            }
    return store(context, "train", files, {})


def samples_of(context: Context, *receipts: Receipt) -> dict[tuple[str, int], Sample]:
    """The samples of some shards, by prompt and index; none may be there twice."""
    found: dict[tuple[str, int], Sample] = {}
    for receipt in receipts:
        for sample in read_rows(fetch(context, receipt, "samples.jsonl"), Sample):
            assert (sample.prompt_id, sample.index) not in found
            found[sample.prompt_id, sample.index] = sample
    return found
