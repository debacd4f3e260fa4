"""Measures of one round, from its receipts: the numbers that reflection reads.

Each has a name and is absent if it was not measured. Predicted effects of a change name one of
them.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from components.contracts.rows import Dropped, Prompt, Result, Sample, TrainingRow, read_rows
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch
from components.statistics import jensen_shannon, two_proportions_z

MAX_ROWS = 200_000
"""Rows of a file that are read."""
NEIGHBOURS = 6
"""Losses before a step, and after it, that its loss is compared with, at most."""
REACH = 60
"""Steps that such a neighbour may be away, at most."""
NOT_VERIFIED = ("in_evaluation", "contamination", "unfinished", "empty", "length")
"""Reasons for a drop by filters before the verifier, or beside it: the verifier's verdict is not
known."""
FEW_MINORITY = 10
"""With fewer minority answers no share of them is taken."""
LEFT_OUT = ("solved", "diversity")
"""Reasons for a drop that may leave nothing of a prompt that was answered right."""
ALIKE = ("duplicate", "near_duplicate", "same_path", "cap", *LEFT_OUT)
"""Reasons for a drop that say nothing against an answer: there are enough answers like it."""


@dataclass(frozen=True)
class RoundFiles:
    """Receipts that hold the rows of a round."""

    prepared: Receipt
    select: Receipt | None
    """None in round 0."""
    generates: tuple[Receipt, ...]
    """All shards; empty in round 0."""


def loss_measures(
    train: Mapping[str, Any], losses: Sequence[float | None], tokens: Sequence[int] = ()
) -> dict[str, float]:
    """Return the measures of the training.

    Args:
        train: Summary of the train receipt.
        losses: Training loss of each step, in nats per token.
        tokens: Tokens of each step; empty if not known.

    Returns:
        `first_loss` (before any update), `last_loss` (mean of the last tenth of the steps),
        `peak_loss` (highest mean of as many steps in a row), `loss_fall` (relative, from the first
        to the last mean), `loss_spikes`, `skipped_steps`, `dev_loss` (best), `dev_rise` (final
        minus best), `above_dev` (last training loss minus final dev loss).
    """
    finite_steps = [
        step for step, loss in enumerate(losses) if loss is not None and math.isfinite(loss)
    ]
    finite = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    num_skipped = float(train.get("skipped_steps") or 0) + len(losses) - len(finite)
    measures = {"skipped_steps": num_skipped}
    best_dev_loss, final_dev_loss = train.get("best_dev_loss"), train.get("final_dev_loss")
    if best_dev_loss is not None and final_dev_loss is not None:
        measures["dev_rise"] = final_dev_loss - best_dev_loss
        measures["dev_loss"] = best_dev_loss
    if not finite:
        return measures
    # A tenth of the steps, but of a short training three steps, or a third of them.
    width = max(len(finite) // 10, min(3, math.ceil(len(finite) / 3)))
    means = [fmean(finite[begin : begin + width]) for begin in range(len(finite) - width + 1)]
    finite_tokens = [tokens[step] for step in finite_steps] if tokens else ()
    measures |= {"first_loss": finite[0], "last_loss": means[-1], "peak_loss": max(means)}
    measures["loss_fall"] = (means[0] - means[-1]) / max(means[0], 1e-9)
    measures["loss_spikes"] = float(len(spikes(finite, finite_tokens)))
    if final_dev_loss is not None:
        measures["above_dev"] = means[-1] - final_dev_loss
    return measures


def human_loss_measures(
    candidate: Mapping[str, Any], champion: Mapping[str, Any]
) -> dict[str, float]:
    """Return the loss on human text and its rise against the champion, in nats per token.

    Args:
        candidate: Summary of the candidate's measurement, with `perplexity`.
        champion: The same of the champion.

    Returns:
        `human_loss` and `human_loss_rise`, as far as both models were measured.
    """
    summaries = (candidate, champion)
    losses = [math.log(summary["perplexity"]) for summary in summaries if summary.get("perplexity")]
    measures = {"human_loss": losses[0]} if losses else {}
    if len(losses) == 2:
        measures["human_loss_rise"] = losses[0] - losses[1]
    return measures


def spikes(losses: Sequence[float], tokens: Sequence[int] = ()) -> list[int]:
    """Return the steps whose loss stands far above its neighbours.

    Far above is more than three times their median, and more than half a nat above it.

    Args:
        losses: Loss of each step.
        tokens: Tokens of each step. If given, only batches of about the same length are compared:
            rows of another length may be another task.
    """

    def neighbours(step: int, others: range) -> Iterator[float]:
        comparable = (
            other for other in others if not tokens or _similar(tokens[step], tokens[other])
        )
        return (losses[other] for other in itertools.islice(comparable, NEIGHBOURS))

    spiking = []
    for step, loss in enumerate(losses):
        earlier_steps = range(step - 1, max(-1, step - 1 - REACH), -1)
        later_steps = range(step + 1, len(losses))[:REACH]
        around = [*neighbours(step, earlier_steps), *neighbours(step, later_steps)]
        if len(around) >= 4 and loss > max(3 * median(around), median(around) + 0.5):
            spiking.append(step)
    return spiking


def _similar(first: int, second: int) -> bool:
    return max(first, second) <= 1.2 * min(first, second)


def answer_measures(
    candidate: Sequence[Result], champion: Sequence[Result] | None, references: Mapping[str, str]
) -> dict[str, float]:
    """Return the measures of the validation answers.

    Args:
        candidate: Validation results of the candidate.
        champion: Validation results of the champion; None in round 0.
        references: Prompt id → right answer.

    Returns:
        `accuracy`, `finished_share`, `same_answers` (share that the champion gives too), `runs_on`
        and `cut_short` (share of all answers that did not end and hold the right answer and more,
        or its beginning alone).
    """
    num_run_on = num_cut_short = 0
    for row in candidate:
        text, reference = row.text.strip(), references.get(row.prompt_id, "").strip()
        if reference and not row.finished:
            num_run_on += text.startswith(reference) and text != reference
            num_cut_short += reference.startswith(text)
    measures = {
        "accuracy": fmean(row.correct for row in candidate),
        "finished_share": fmean(row.finished for row in candidate),
        "runs_on": num_run_on / len(candidate),
        "cut_short": num_cut_short / len(candidate),
    }
    if champion is not None:
        champion_answers = {row.prompt_id: row.text for row in champion}
        measures["same_answers"] = fmean(
            champion_answers.get(row.prompt_id) == row.text for row in candidate
        )
    return measures


def row_measures(
    context: Context,
    files: RoundFiles,
    champion: Sequence[Result] | None,
    validation: Mapping[str, Prompt],
) -> dict[str, float]:
    """Return the measures of the rows that a round trained on.

    Args:
        context: Store of the receipts.
        files: Receipts of the round.
        champion: Validation results of the champion; None in round 0.
        validation: Validation prompts by id.

    Returns:
        See `mix_measures` and, from round 1 on, `verifier_measures`.
    """
    if files.select is None:
        rows = _rows(context, files.prepared, "splits/train.jsonl", TrainingRow)
        return mix_measures(rows, validation.values())
    mix = _rows(context, files.select, "mix.jsonl", TrainingRow)
    measures = mix_measures(mix, validation.values())
    if champion is None:
        return measures
    prompts: dict[str, Prompt] = {}
    samples: list[Sample] = []
    # Prompts shorter or longer than those of validation are of another kind: the champion's
    # accuracy there says nothing about them.
    lengths = [len(prompt.text) for prompt in validation.values()]
    shortest, longest = min(lengths, default=0), max(lengths, default=0)
    for shard in files.generates:
        for prompt in _rows(context, shard, "prompts.jsonl", Prompt):
            if shortest <= len(prompt.text) <= longest:
                prompts[prompt.id] = prompt
        samples += _rows(context, shard, "samples.jsonl", Sample)
    dropped = _rows(context, files.select, "dropped.jsonl", Dropped)
    return measures | verifier_measures(prompts, samples, dropped, champion)


def mix_measures(rows: Iterable[TrainingRow], validation: Iterable[Prompt]) -> dict[str, float]:
    """Return the measures of the training mix; empty without rows.

    Args:
        rows: The mix. Texts are compared `loosely`.
        validation: Validation prompts.

    Returns:
        `labelled_weight` (share of the draws), `repeated` (share of the draws that repeat an
        earlier row), `repeated_labelled` (the part of it that is labelled), `contaminated` (share
        of the validation prompts that are trained on), `answer_shift` (Jensen–Shannon distance of
        the last characters of labelled and generated answers, 0 to 1).
    """
    earlier_rows: set[tuple[str, str]] = set()
    trained_prompts: set[str] = set()
    weight: defaultdict[str, float] = defaultdict(float)
    repeated: defaultdict[str, float] = defaultdict(float)
    endings: dict[str, dict[str, float]] = {
        "labelled": defaultdict(float),
        "self": defaultdict(float),
    }
    for row in rows:
        prompt, completion = loosely(row.prompt), loosely(row.completion)
        weight[row.source] += row.weight
        if (prompt, completion) in earlier_rows:
            repeated[row.source] += row.weight
        earlier_rows.add((prompt, completion))
        if row.prompt:
            trained_prompts.add(prompt)
            endings[row.source][completion[-1:]] += row.weight
    total = sum(weight.values())
    if not total:
        return {}
    validation_texts = [loosely(prompt.text) for prompt in validation]
    num_contaminated = sum(text in trained_prompts for text in validation_texts)
    measures = {
        "labelled_weight": weight["labelled"] / total,
        "repeated": sum(repeated.values()) / total,
        "repeated_labelled": repeated["labelled"] / total,
        "contaminated": num_contaminated / max(1, len(validation_texts)),
    }
    if endings["labelled"] and endings["self"]:
        measures["answer_shift"] = jensen_shannon(endings["labelled"], endings["self"])
    return measures


def verifier_measures(
    prompts: Mapping[str, Prompt],
    samples: Sequence[Sample],
    dropped: Iterable[Dropped],
    champion: Sequence[Result],
) -> dict[str, float]:
    """Return the verifier's verdicts on majority answers, beside the champion's accuracy.

    The majority answer of a prompt is the text that most of its samples give. The accuracy is that
    on validation prompts with the same tags.

    Args:
        prompts: Sampled prompts by id; samples of other prompts are ignored.
        samples: Samples of the round.
        dropped: Samples that were dropped, with the reason.
        champion: Validation results of the champion.

    Returns:
        `agreement`: mean share of a prompt's samples that give its majority answer;
        `majority_prompts`: number of prompts; `majority_passed`: share of them whose majority
        answer the verifier accepts; `majority_expected`: the champion's accuracy; `verifier_z`:
        standard errors that the former is above the latter; `passed_agreement`,
        `refused_agreement`: agreement on prompts whose majority answer was accepted, or not;
        `disputed`: share of the accepted samples that are minority answers; `minority_passed`:
        share of the minority answers that the verifier accepts. Empty without samples.
    """
    reasons = {(row.row.get("prompt_id"), row.row.get("index")): row.reason for row in dropped}
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        reason = reasons.get((sample.prompt_id, sample.index))
        if sample.prompt_id in prompts and reason not in NOT_VERIFIED:
            groups[sample.prompt_id].append(sample)
    if not groups:
        return {}
    passed_agreement: list[float] = []
    refused_agreement: list[float] = []
    num_accepted = num_disputed = num_minority = num_minority_passed = 0
    for identity, group in groups.items():
        votes = Counter(sample.text.strip() for sample in group)
        majority, num_votes = votes.most_common(1)[0]
        majority_passed = False
        for sample in group:
            reason = reasons.get((identity, sample.index))
            is_minority = sample.text.strip() != majority
            passed = reason != "verifier"
            accepted = reason is None or reason in ALIKE
            majority_passed |= passed and not is_minority
            num_minority += is_minority
            num_minority_passed += passed and is_minority
            num_accepted += accepted
            num_disputed += accepted and is_minority
        agreements = passed_agreement if majority_passed else refused_agreement
        agreements.append(num_votes / len(group))
    measures = {
        "agreement": fmean(passed_agreement + refused_agreement),
        "majority_passed": len(passed_agreement) / len(groups),
        "disputed": num_disputed / max(1, num_accepted),
        "majority_prompts": float(len(groups)),
    }
    if num_minority >= FEW_MINORITY:
        measures["minority_passed"] = num_minority_passed / num_minority
    if passed_agreement:
        measures["passed_agreement"] = fmean(passed_agreement)
    if refused_agreement:
        measures["refused_agreement"] = fmean(refused_agreement)
    expected, num_validation = _expected([prompts[identity] for identity in groups], champion)
    if num_validation:
        measures["majority_expected"] = expected
        measures["verifier_z"] = two_proportions_z(
            measures["majority_passed"], len(groups), expected, num_validation
        )
    return measures


def _expected(prompts: Sequence[Prompt], champion: Sequence[Result]) -> tuple[float, int]:
    """Return (accuracy of the champion on validation prompts tagged like these, their number)."""
    verdicts: dict[tuple[tuple[str, str], ...], list[bool]] = defaultdict(list)
    for row in champion:
        verdicts[tuple(sorted(row.tags.items()))].append(row.correct)
    counts = Counter(tuple(sorted(prompt.tags.items())) for prompt in prompts)
    known = {tags: count for tags, count in counts.items() if tags in verdicts}
    if not known:
        return 0.0, 0
    # Weighted by the sampled prompts, so that both have the same mixture of kinds.
    weighted = sum(count * fmean(verdicts[tags]) for tags, count in known.items())
    return weighted / sum(known.values()), sum(len(verdicts[tags]) for tags in known)


def loosely(text: str) -> str:
    """Return a text without case, white space, and punctuation at its ends.

    Texts that look the same to a person are then equal.
    """
    return "".join(text.split()).casefold().strip(".,;:!?'\"")


def references_of(prompts: Iterable[Prompt]) -> dict[str, str]:
    """Return prompt id → right answer, for prompts whose verifier has one."""
    return {
        prompt.id: str(prompt.reference["answer"])
        for prompt in prompts
        if "answer" in prompt.reference
    }


def validation_prompts(context: Context, prepared: Receipt) -> dict[str, Prompt]:
    """Return the validation prompts by id."""
    prompts = _rows(context, prepared, "splits/validation.jsonl", Prompt)
    return {prompt.id: prompt for prompt in prompts}


def _rows(context: Context, receipt: Receipt, name: str, kind: Any) -> Iterator[Any]:
    """Yield the first MAX_ROWS rows of a file; none if there is no such file."""
    if name in receipt.objects:
        yield from itertools.islice(read_rows(fetch(context, receipt, name), kind), MAX_ROWS)
