"""Measure a candidate on held-out data: accuracy, pass@k, perplexity, per slice."""

from __future__ import annotations

import statistics as stats
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.context import Context
from components.common.receipts import Receipt, commit_once, fetch, fetch_folder
from components.common.records import Prompt, Result, Sample, TrainingRow, derived_seed, read_rows, write_rows
from components.common.state import Campaign, load_campaign
from components.common.statistics import pass_at_k
from components.common.verifiers import verify


@dataclass(frozen=True)
class EvaluateInputs:
    """What is measured."""

    state: str
    """URI of the state the round began from."""
    candidate: Receipt
    """Receipt of the train step."""


def run(inputs: EvaluateInputs, context: Context) -> Receipt:
    """Write `results.jsonl`, one row per validation and test prompt.

    The champion was measured by the same code, prompts, batch size and seeds when it was the candidate; its results
    are in its own receipt, so both are compared prompt by prompt without measuring it twice.
    """
    campaign = load_campaign(context, inputs.state)
    recipe = campaign.recipe

    def work(folder: Path) -> dict[str, Any]:
        results, measures = _measure(context, campaign, fetch_folder(context, inputs.candidate, "model"))
        write_rows(folder / "results.jsonl", results)
        return {"round": campaign.next_round, **_scores(results, recipe.evaluate.pass_k), **measures}

    return commit_once(
        context,
        campaign.task("evaluate"),
        "evaluate",
        config=campaign.config(
            section=recipe.evaluate,
            max_new_tokens=recipe.generate.max_new_tokens,
            round=campaign.next_round,
            top_k=recipe.generate.top_k,
            system_prompt=recipe.model.system_prompt,
        ),
        inputs={"prepare": campaign.prepared, "candidate": inputs.candidate},
        seed=recipe.seed,
        work=work,
    )


def _measure(context: Context, campaign: Campaign, model_folder: Path) -> tuple[list[Result], dict[str, Any]]:
    import torch

    from components.modeling.answers import load_for_answers, sample_all
    from components.modeling.engine import Sampling

    torch.set_num_threads(context.threads)
    recipe = campaign.recipe
    model, codec = load_for_answers(model_folder, recipe.model.system_prompt)
    splits = {
        split: list(read_rows(fetch(context, campaign.prepared, f"splits/{split}.jsonl"), Prompt))
        for split in ("validation", "test")
    }
    prompts = [prompt for rows in splits.values() for prompt in rows]
    greedy = Sampling(0.0, 0, 1.0, recipe.generate.max_new_tokens, recipe.evaluate.batch_size)
    answers = sample_all(context, model, codec, prompts, [[0]] * len(prompts), greedy)
    extra: dict[str, list[Sample]] = defaultdict(list)
    if recipe.evaluate.pass_k:
        drawn = Sampling(
            recipe.evaluate.temperature,
            recipe.generate.top_k,
            1.0,
            recipe.generate.max_new_tokens,
            recipe.evaluate.batch_size,
        )
        # The seeds do not depend on the round: every model is asked with the same dice.
        seeds = [
            [derived_seed(recipe.seed, "pass", prompt.id, index) for index in range(recipe.evaluate.pass_k)]
            for prompt in splits["test"]
        ]
        for item in sample_all(context, model, codec, splits["test"], seeds, drawn):
            extra[item.prompt_id].append(item)
    names = ["validation"] * len(splits["validation"]) + ["test"] * len(splits["test"])
    begun = context.clock()
    results = [
        _result(prompt, split, answer, extra.get(prompt.id, []) if split == "test" else [])
        for prompt, split, answer in zip(prompts, names, answers, strict=True)
    ]
    context.charge("compute_seconds", context.clock() - begun)
    samples = [*answers, *(item for items in extra.values() for item in items)]
    return results, {
        "perplexity": _perplexity(context, campaign, model, codec), "tokens": sum(item.num_tokens for item in samples),
        "finished_share": sum(item.finished for item in answers) / len(answers),
        "mean_answer_tokens": stats.fmean(item.num_tokens for item in answers),
        "distinct_share": len({item.text for item in answers}) / len(answers),
    }  # fmt: skip


def _result(prompt: Prompt, split: Any, answer: Sample, extra: Sequence[Sample]) -> Result:
    return Result(
        prompt_id=prompt.id, split=split, correct=verify(prompt, answer.text), text=answer.text,
        finished=answer.finished, num_tokens=answer.num_tokens, num_samples=len(extra),
        num_correct=sum(verify(prompt, item.text) for item in extra), tags=prompt.tags,
    )  # fmt: skip


def _scores(results: Sequence[Result], pass_k: int) -> dict[str, Any]:
    by_split = {split: [row for row in results if row.split == split] for split in ("validation", "test")}
    drawn = [row for row in by_split["test"] if row.num_samples]
    return {
        "validation_accuracy": _accuracy(by_split["validation"]),
        "test_accuracy": _accuracy(by_split["test"]),
        "slices": _slices(by_split["validation"]),
        "test_slices": _slices(by_split["test"]),
        "pass_k": pass_k,
        "pass_at_k": stats.fmean(pass_at_k(row.num_samples, row.num_correct, pass_k) for row in drawn)
        if drawn
        else None,
    }


def _accuracy(rows: Sequence[Result]) -> float:
    return sum(row.correct for row in rows) / len(rows)


def _slices(rows: Sequence[Result]) -> dict[str, dict[str, float]]:
    slices: dict[str, list[Result]] = defaultdict(list)
    for row in rows:
        for tag, value in row.tags.items():
            slices[f"{tag}={value}"].append(row)
    return {name: {"accuracy": _accuracy(own), "n": len(own)} for name, own in sorted(slices.items())}


def _perplexity(context: Context, campaign: Campaign, model: Any, codec: Any) -> float | None:
    """Perplexity per token on human text: the retention split, else held-out rows."""
    import math

    from components.modeling.likelihood import CompletionLoss, EncodedRow, mean_loss

    rows: list[TrainingRow] = []
    for split in ("retention", "heldout"):
        rows = list(read_rows(fetch(context, campaign.prepared, f"splits/{split}.jsonl"), TrainingRow))
        if rows:
            break
    rows = rows[: campaign.recipe.evaluate.max_perplexity_rows]
    if not rows:
        return None
    begun = context.clock()
    limit = campaign.recipe.train.max_length
    encoded = [
        EncodedRow(ids[:limit], masked) for ids, masked in (codec.row_ids(row.prompt, row.completion) for row in rows)
    ]
    loss = mean_loss(CompletionLoss(model), encoded, codec.pad_id, 32)
    context.charge("compute_seconds", context.clock() - begun)
    return math.exp(min(loss, 50.0))
