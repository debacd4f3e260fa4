"""Scores by models on this machine: rewards, perplexities under champion and base, influence on
dev rows."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.canonical import derived_seed
from components.contracts.artifacts import split_file
from components.contracts.recipe import RewardScorer
from components.contracts.rows import TrainingRow, read_rows
from components.errors import UserError
from components.runtime.campaign import Campaign, base_name, checkpoint_name
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, fetch_folder, read_receipt
from components.select.filter_settings import Scorer
from components.select.scored_samples import Block, SampleKey
from components.storage.sources import local_folder

BATCH_ROWS = 32


def reward_scorer(context: Context, section: RewardScorer, scratch: Path) -> Scorer:
    """Scores by a sequence classifier with one output."""
    if not section.source.startswith(("file://", "s3://")):
        raise UserError(
            f"select.reward.source {section.source!r}: use file://folder or s3://bucket/prefix"
        )

    @functools.cache
    def model() -> Any:
        from components.modeling.reward import RewardModel

        return RewardModel(local_folder(section.source, context.environment, scratch))

    def scores(block: Block) -> list[float | None]:
        found: list[float | None] = model().scores(
            [(one.prompt.text, one.text) for one in block], section.batch_size
        )
        return found

    return _with_threads(context, scores)


def likelihood_scorers(context: Context, campaign: Campaign) -> dict[str, Scorer]:
    """`champion`, `base` and `ratio`: perplexity per token of an answer, and the first over the
    second."""
    champion = read_receipt(context, campaign.champion_ref)
    models = {
        "champion": _perplexity(context, campaign, champion, checkpoint_name(0)),
        "base": _perplexity(context, campaign, campaign.prepared, base_name(campaign.prepared, 0)),
    }

    def ratio(block: Block) -> list[float | None]:
        pairs = zip(models["champion"](block), models["base"](block), strict=True)
        return [above / below if above is not None and below else None for above, below in pairs]

    return {**models, "ratio": ratio}


def _perplexity(context: Context, campaign: Campaign, receipt: Receipt, name: str) -> Scorer:
    """Perplexities under a checkpoint; None for a row longer than `train.max_length`."""
    recipe = campaign.recipe

    @functools.cache
    def loaded() -> Any:
        return _loaded(context, receipt, name, recipe.model.system_prompt)

    last: dict[SampleKey, float | None] = {}
    """Of the last block: `ratio` asks again for what is left of it."""

    def scores(block: Block) -> list[float | None]:
        if any(one.key not in last for one in block):
            from components.modeling.influence import perplexities

            model, codec = loaded()
            pairs = [(one.prompt.asked, one.text) for one in block]
            found = perplexities(model, codec, pairs, recipe.train.max_length, BATCH_ROWS)
            last.clear()
            last.update(zip((one.key for one in block), found, strict=True))
        return [last[one.key] for one in block]

    return _with_threads(context, scores)


def influence_scorer(context: Context, campaign: Campaign) -> Scorer:
    """How well a row's gradient agrees with that of the labelled rows of the dev split; None for
    one longer than the model takes."""
    section, recipe = campaign.recipe.select.influence, campaign.recipe
    assert section is not None
    rows = list(read_rows(fetch(context, campaign.prepared, split_file("dev")), TrainingRow))
    if not rows:
        raise UserError(
            "select.influence needs labelled rows of the dev split: give a source with split dev, or set "
            "data.fractions.dev"
        )
    rows.sort(key=lambda row: derived_seed(recipe.seed, "influence", row.id))
    chosen = [(row.asked, row.completion) for row in rows[: section.validation_rows]]

    @functools.cache
    def influence() -> Any:
        from components.modeling.influence import Influence

        champion = read_receipt(context, campaign.champion_ref)
        model, codec = _loaded(context, champion, checkpoint_name(0), recipe.model.system_prompt)
        return Influence(model, codec, chosen, recipe.train.max_length, section.batch_size)

    def scores(block: Block) -> list[float | None]:
        found: list[float | None] = influence().scores(
            [(one.prompt.asked, one.text) for one in block]
        )
        return found

    return _with_threads(context, scores)


def _loaded(context: Context, receipt: Receipt, name: str, system_prompt: str) -> Any:
    """(model, codec) of a checkpoint of a receipt."""
    from components.modeling.inference.answers import load_for_answers

    folder = fetch_folder(context, receipt, name)
    try:
        return load_for_answers(folder, system_prompt)
    finally:
        shutil.rmtree(folder)


def _with_threads(context: Context, score: Callable[[Block], list[float | None]]) -> Scorer:
    """The same, with as many threads as there are cores."""

    def scores(block: Block) -> list[float | None]:
        import torch

        torch.set_num_threads(context.threads)
        return score(block)

    return scores
