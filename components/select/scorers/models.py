"""Scores by models on this machine: reward, perplexity under champion and base, influence."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.canonical import derived_seed
from components.contracts.artifacts import split_file
from components.contracts.recipe import InfluenceChoice, RewardScorer
from components.contracts.rows import Asked, Beginning, TrainingRow, read_rows
from components.errors import UserError
from components.runtime.campaign import Campaign, checkpoint_in
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, fetch_folder, read_receipt
from components.select.scored_samples import Block, SampleKey, ScoredSample
from components.storage.sources import local_folder, split_source

if TYPE_CHECKING:
    from components.modeling.encoding import Codec
    from components.modeling.influence import Influence
    from components.modeling.reward import RewardModel

BATCH_ROWS = 32
"""Rows per forward pass of the perplexities."""

ModelScorer = Callable[[Block], list[float | None]]
"""A scorer that runs a model here; None where a sample is too long for it."""


def reward_scorer(
    context: Context, section: RewardScorer, scratch: Path
) -> ModelScorer:
    """Return a scorer by a sequence classifier with one output.

    Args:
        context: Environment and number of threads.
        section: The model's place and the batch size.
        scratch: A folder for the model.

    Raises:
        UserError: The source is neither a folder nor in S3.
    """
    if split_source(section.source, context.environment)[0] not in ("file", "s3"):
        raise UserError(
            f"select.reward.source {section.source!r}: use a folder or s3://bucket/prefix"
        )

    @functools.cache
    def model() -> RewardModel:
        from components.modeling.reward import RewardModel

        return RewardModel(local_folder(section.source, context.environment, scratch))

    def scores(block: Block) -> list[float | None]:
        pairs = [(scored.prompt.text, scored.text) for scored in block]
        rewards: list[float | None] = model().scores(pairs, section.batch_size)
        return rewards

    return _with_threads(context, scores)


def likelihood_scorers(context: Context, campaign: Campaign) -> dict[str, ModelScorer]:
    """Return scorers by perplexities per token.

    `champion` and `base` are those of answers under the two models, `ratio` is the first over the
    second, and `difficulty` is how little a prompt makes its answer likelier under the champion.
    """
    receipt = read_receipt(context, campaign.champion_ref)
    champion = _loader(context, campaign, receipt)
    base = _loader(context, campaign, campaign.prepared)
    max_length = campaign.recipe.train.max_length
    of_champion = _perplexity(context, champion, max_length)
    of_base = _perplexity(context, base, max_length)
    alone = _perplexity(context, champion, max_length, alone=True)

    # Far below 1 the champion finds likely what the base does not: it has drifted away.
    def ratio(block: Block) -> list[float | None]:
        pairs = zip(of_champion(block), of_base(block), strict=True)
        return [
            by_champion / by_base if by_champion is not None and by_base else None
            for by_champion, by_base in pairs
        ]

    def difficulty(block: Block) -> list[float | None]:
        triples = zip(block, of_champion(block), alone(block), strict=True)
        return [
            _difficulty(scored, after_prompt, without)
            for scored, after_prompt, without in triples
        ]

    return {
        "champion": of_champion,
        "base": of_base,
        "ratio": ratio,
        "difficulty": difficulty,
    }


def _difficulty(
    scored: ScoredSample, after_prompt: float | None, without: float | None
) -> float | None:
    """Return the perplexity of an answer after its prompt over that without it (2308.12032).

    From 1 on, the answer does not follow the prompt, and the source leaves it out: 0. A text from
    nothing has no prompt, and its perplexity is returned. None where a perplexity is missing.
    """
    if after_prompt is None or without is None:
        return None
    if not scored.prompt.text:
        return after_prompt
    ratio = after_prompt / without
    return ratio if ratio < 1 else 0.0


Loader = Callable[[], tuple[Any, "Codec"]]


def _loader(context: Context, campaign: Campaign, receipt: Receipt) -> Loader:
    """Return a function that returns (model, codec) of the first checkpoint of a receipt."""

    # Loaded with the first block: filters before this one may have dropped everything.
    @functools.cache
    def loaded() -> tuple[Any, Codec]:
        name = checkpoint_in(receipt, 0)
        return _loaded(context, receipt, name, campaign.recipe.model.system_prompt)

    return loaded


def _perplexity(
    context: Context, loaded: Loader, max_length: int, *, alone: bool = False
) -> ModelScorer:
    """Return a scorer of perplexities under a model.

    The score of a row longer than `max_length` tokens is None.

    Args:
        context: Number of threads.
        loaded: Returns the model.
        max_length: Longest row.
        alone: Answers without their prompts.
    """
    last_block: dict[SampleKey, float | None] = {}

    def scores(block: Block) -> list[float | None]:
        # `ratio` needs the same scores again, for those rows of the block that remain.
        if any(scored.key not in last_block for scored in block):
            from components.modeling.influence import perplexities

            model, codec = loaded()
            pairs = _pairs(block)
            if alone:
                pairs = [(Beginning(text=""), answer) for _, answer in pairs]
            values = perplexities(model, codec, pairs, max_length, BATCH_ROWS)
            last_block.clear()
            for scored, value in zip(block, values, strict=True):
                last_block[scored.key] = value
        return [last_block[scored.key] for scored in block]

    return _with_threads(context, scores)


def influence_scorer(context: Context, campaign: Campaign) -> ModelScorer:
    """Return a scorer by the product of a row's gradient and that of labelled dev rows.

    The score of a row longer than `train.max_length` is None.

    Raises:
        UserError: The dev split is empty.
    """
    recipe = campaign.recipe
    # `select.keep` may rank by it, without the filter.
    section = recipe.select.influence or InfluenceChoice()
    path = fetch(context, campaign.prepared, split_file("dev"))
    rows = list(read_rows(path, TrainingRow))
    if not rows:
        raise UserError(
            "influence (section select) needs labelled rows of the dev split: "
            "give a source with split dev, or set data.fractions.dev"
        )
    # Of the dev split: rows that the gate decides on must not choose what is trained on.
    # A fixed shuffle: the first rows of the file may all come from one source.
    rows.sort(key=lambda row: derived_seed(recipe.seed, "influence", row.id))
    chosen = [(row.asked, row.completion) for row in rows[: section.dev_rows]]

    @functools.cache
    def influence() -> Influence:
        from components.modeling.influence import Influence

        champion = read_receipt(context, campaign.champion_ref)
        model, codec = _loaded(
            context, champion, checkpoint_in(champion, 0), recipe.model.system_prompt
        )
        return Influence(
            model, codec, chosen, recipe.train.max_length, section.batch_size
        )

    def scores(block: Block) -> list[float | None]:
        values: list[float | None] = influence().scores(_pairs(block))
        return values

    return _with_threads(context, scores)


def _pairs(block: Block) -> list[tuple[Asked, str]]:
    """Return (what was asked, answer) of each sample."""
    return [(scored.prompt.asked, scored.text) for scored in block]


def _loaded(
    context: Context, receipt: Receipt, name: str, system_prompt: str
) -> tuple[Any, Codec]:
    """Return (model, codec) of a checkpoint of a receipt."""
    from components.modeling.inference.answers import load_for_answers

    folder = fetch_folder(context, receipt, name)
    try:
        return load_for_answers(folder, system_prompt)
    finally:
        # The weights are in memory now; the copy only takes up the disk.
        shutil.rmtree(folder)


def _with_threads(context: Context, score: ModelScorer) -> ModelScorer:
    """Return the scorer, which then uses as many threads as the context allows."""

    def scores(block: Block) -> list[float | None]:
        import torch

        # At every call: several models take turns in this process, and loading one may change it.
        torch.set_num_threads(context.threads)
        return score(block)

    return scores
