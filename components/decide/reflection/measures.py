"""Measures of one round, from its receipts: the numbers that reflection reads.

Each has a name and is absent if it was not measured. Predicted effects of a change name one of
them.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean, median

from components.contracts.artifacts import MIX, split_file
from components.contracts.rows import Prompt, Result, TrainingRow, read_rows
from components.contracts.summaries import TrainSummary
from components.contracts.summaries.evaluate import ModelScores
from components.contracts.summaries.select import Votes
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch
from components.statistics import jensen_shannon, two_proportions_z

# Shares settle long before: reading on would only take time and memory.
MAX_ROWS = 200_000
"""Rows of a file that are read."""
NEIGHBOURS = 6
"""Losses before a step, and after it, that its loss is compared with, at most."""
# A loss falls in the course of a training: far away it says nothing about this step.
REACH = 60
"""Steps that such a neighbour may be away, at most."""
FEW_NEIGHBOURS = 4
"""With fewer of them no step is called a spike."""
SAME_LENGTH = 1.2
"""Ratio of token counts up to which two batches have about the same length."""
FEW_MINORITY = 10
"""With fewer minority answers no share of them is taken."""
LEFT_OUT = ("solved", "choice")
"""Reasons for a drop that may leave nothing of a prompt that was answered right."""
ALIKE = ("duplicate", "near_duplicate", "same_path", "cap", *LEFT_OUT)
"""Reasons for a drop that say nothing against an answer: there are enough answers like it."""

Measures = dict[str, float]
"""Name → value; a name is absent if it was not measured."""
Tags = tuple[tuple[str, str], ...]
Weights = defaultdict[str, float]


def loss_measures(
    train: TrainSummary, losses: Sequence[float | None], tokens: Sequence[int] = ()
) -> Measures:
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
    finite: list[float] = []
    finite_tokens: list[int] = []
    for step, loss in enumerate(losses):
        if loss is not None and math.isfinite(loss):
            finite.append(loss)
            if tokens:
                finite_tokens.append(tokens[step])
    # A step whose loss is not finite changes no weights, like one that the optimizer skipped.
    num_not_finite = len(losses) - len(finite)
    measures = {"skipped_steps": float(train.skipped_steps + num_not_finite)}
    best_dev_loss = train.best_dev_loss
    final_dev_loss = train.final_dev_loss
    if best_dev_loss is not None and final_dev_loss is not None:
        measures["dev_rise"] = final_dev_loss - best_dev_loss
        measures["dev_loss"] = best_dev_loss
    if not finite:
        return measures
    means = _moving_means(finite)
    first_mean = means[0]
    last_mean = means[-1]
    measures["first_loss"] = finite[0]
    measures["last_loss"] = last_mean
    measures["peak_loss"] = max(means)
    # A loss of 0 cannot fall, and must not divide.
    measures["loss_fall"] = (first_mean - last_mean) / max(first_mean, 1e-9)
    spiking_steps = spikes(finite, finite_tokens)
    measures["loss_spikes"] = float(len(spiking_steps))
    if final_dev_loss is not None:
        measures["above_dev"] = last_mean - final_dev_loss
    return measures


def _moving_means(losses: Sequence[float]) -> list[float]:
    """Return the means of all windows of a tenth of the losses."""
    # Of a short training a window has three losses, or a third of them: one batch alone is noise.
    total = len(losses)
    third = math.ceil(total / 3)
    width = max(total // 10, min(3, third))
    means = []
    for begin in range(total - width + 1):
        window = losses[begin : begin + width]
        means.append(fmean(window))
    return means


def human_loss_measures(
    candidate: ModelScores, champion: ModelScores | None
) -> Measures:
    """Return the loss on human text and its rise against the champion, in nats per token.

    Args:
        candidate: Scores of the candidate.
        champion: Scores of the champion; None before there is one.

    Returns:
        `human_loss` and `human_loss_rise`, as far as both models were measured.
    """
    if candidate.perplexity is None:
        return {}
    loss = math.log(candidate.perplexity)
    measures = {"human_loss": loss}
    if champion is not None and champion.perplexity is not None:
        measures["human_loss_rise"] = loss - math.log(champion.perplexity)
    return measures


def spikes(losses: Sequence[float], tokens: Sequence[int] = ()) -> list[int]:
    """Return the steps whose loss stands far above its neighbours.

    Far above is more than three times their median, and more than half a nat above it.

    Args:
        losses: Loss of each step.
        tokens: Tokens of each step. If given, only batches of about the same length are compared.
    """
    spiking = []
    for step, loss in enumerate(losses):
        neighbours = _neighbours(step, losses, tokens)
        if len(neighbours) < FEW_NEIGHBOURS:
            continue
        usual = median(neighbours)
        # Both: three times a loss of 0.01 is noise, and half a nat is little at the beginning.
        threshold = max(3 * usual, usual + 0.5)
        if loss > threshold:
            spiking.append(step)
    return spiking


def _neighbours(
    step: int, losses: Sequence[float], tokens: Sequence[int]
) -> list[float]:
    """Return the losses nearest to a step, of both sides, whose batches are comparable."""
    first = max(0, step - REACH)
    last = min(len(losses) - 1, step + REACH)
    # Outwards from the step, on either side.
    earlier_steps = range(step - 1, first - 1, -1)
    later_steps = range(step + 1, last + 1)
    neighbours: list[float] = []
    for side in (earlier_steps, later_steps):
        comparable = (
            neighbour for neighbour in side if _is_comparable(step, neighbour, tokens)
        )
        neighbours += [
            losses[neighbour] for neighbour in itertools.islice(comparable, NEIGHBOURS)
        ]
    return neighbours


def _is_comparable(step: int, neighbour: int, tokens: Sequence[int]) -> bool:
    """Return True if the batches of two steps have about the same length, or it is not known."""
    if not tokens:
        return True
    # Rows of another length may be another task, whose loss is higher without being wrong.
    shorter, longer = sorted((tokens[step], tokens[neighbour]))
    return longer <= SAME_LENGTH * shorter


def answer_measures(
    candidate: Sequence[Result],
    champion: Sequence[Result],
    references: Mapping[str, str],
) -> Measures:
    """Return the measures of the dev answers; empty without any.

    Args:
        candidate: Dev results of the candidate.
        champion: Dev results of the champion; empty if it was not measured on them.
        references: Prompt id → right answer.

    Returns:
        `accuracy`, `finished_share`, `same_answers` (share that the champion gives too), `runs_on`
        and `cut_short` (share of all answers that did not end and hold the right answer and more,
        or its beginning alone).
    """
    if not candidate:
        return {}
    num_right = 0
    num_finished = 0
    num_run_on = 0
    num_cut_short = 0
    for row in candidate:
        num_right += row.correct
        num_finished += row.finished
        text = row.text.strip()
        reference = references.get(row.prompt_id, "").strip()
        # Only of an answer that did not end is it asked what it was about to say.
        if reference and not row.finished:
            num_run_on += text.startswith(reference) and text != reference
            num_cut_short += reference.startswith(text)
    total = len(candidate)
    measures = {
        "accuracy": num_right / total,
        "finished_share": num_finished / total,
        "runs_on": num_run_on / total,
        "cut_short": num_cut_short / total,
    }
    if champion:
        champion_answers = {row.prompt_id: row.text for row in champion}
        same = [champion_answers.get(row.prompt_id) == row.text for row in candidate]
        measures["same_answers"] = fmean(same)
    return measures


def mix_rows(context: Context, mix: Receipt) -> Iterator[TrainingRow]:
    """Yield the first MAX_ROWS rows of a training mix."""
    path = fetch(context, mix, MIX)
    return itertools.islice(read_rows(path, TrainingRow), MAX_ROWS)


def mix_measures(rows: Iterable[TrainingRow], validation: Iterable[Prompt]) -> Measures:
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
    weight: Weights = defaultdict(float)
    repeated: Weights = defaultdict(float)
    # The last character tells kinds of answers apart (digit, letter, full stop) at no cost.
    endings: dict[str, Weights] = {
        "labelled": defaultdict(float),
        "self": defaultdict(float),
    }
    for row in rows:
        prompt = loosely(row.prompt)
        completion = loosely(row.completion)
        weight[row.source] += row.weight
        pair = (prompt, completion)
        if pair in earlier_rows:
            repeated[row.source] += row.weight
        earlier_rows.add(pair)
        # Raw text has no prompt, so nothing that a validation prompt could be compared with.
        if row.prompt:
            trained_prompts.add(prompt)
            last_character = completion[-1:]
            endings[row.source][last_character] += row.weight
    total = sum(weight.values())
    if not total:
        return {}
    validation_texts = [loosely(prompt.text) for prompt in validation]
    num_contaminated = sum(text in trained_prompts for text in validation_texts)
    measures = {
        # By weight, not by row: the weight is the chance that a batch draws the row.
        "labelled_weight": weight["labelled"] / total,
        "repeated": sum(repeated.values()) / total,
        "repeated_labelled": repeated["labelled"] / total,
        "contaminated": num_contaminated / max(1, len(validation_texts)),
    }
    if endings["labelled"] and endings["self"]:
        measures["answer_shift"] = jensen_shannon(endings["labelled"], endings["self"])
    return measures


def verifier_measures(votes: Votes, champion: Sequence[Result]) -> Measures:
    """Return the verifier's verdicts on majority answers, beside the champion's accuracy.

    The majority answer of a prompt is the one that most of its samples give. The accuracy is that
    on dev prompts with the same tags.

    Args:
        votes: Votes of the round's samples, counted by select.
        champion: Dev results of the champion.

    Returns:
        `agreement`: mean share of a prompt's samples that give its majority answer;
        `majority_prompts`: number of prompts; `majority_passed`: share of them whose majority
        answer the verifier accepts; `majority_expected`: the champion's accuracy; `verifier_z`:
        standard errors that the former is above the latter; `passed_agreement`,
        `refused_agreement`: agreement on prompts whose majority answer was accepted, or not;
        `disputed`: share of the accepted samples that are minority answers; `minority_passed`:
        share of the minority answers that the verifier accepts.
    """
    measures = {
        "agreement": votes.agreement,
        "majority_passed": votes.prompts_passed / votes.prompts,
        "disputed": votes.disputed / max(1, votes.accepted),
        "majority_prompts": float(votes.prompts),
    }
    # A share of two or three answers would be any number.
    if votes.minority >= FEW_MINORITY:
        measures["minority_passed"] = votes.minority_passed / votes.minority
    if votes.passed_agreement is not None:
        measures["passed_agreement"] = votes.passed_agreement
    if votes.refused_agreement is not None:
        measures["refused_agreement"] = votes.refused_agreement
    expected, num_dev = _expected(votes, champion)
    # Without dev prompts of these kinds there is nothing to hold the verifier against.
    if num_dev:
        measures["majority_expected"] = expected
        measures["verifier_z"] = two_proportions_z(
            measures["majority_passed"], votes.prompts, expected, num_dev
        )
    return measures


def _expected(votes: Votes, champion: Sequence[Result]) -> tuple[float, int]:
    """Return (accuracy of the champion on dev prompts tagged like these, their number)."""
    verdicts: defaultdict[Tags, list[bool]] = defaultdict(list)
    for row in champion:
        verdicts[_sorted_tags(row.tags)].append(row.correct)
    weighted_sum = 0.0
    num_prompts = 0
    num_dev = 0
    for kind in votes.kinds:
        kind_verdicts = verdicts.get(_sorted_tags(kind.tags))
        if kind_verdicts is not None:
            # Weighted by the sampled prompts, so that both have the same mixture of kinds.
            weighted_sum += kind.prompts * fmean(kind_verdicts)
            num_prompts += kind.prompts
            num_dev += len(kind_verdicts)
    if not num_prompts:
        return 0.0, 0
    return weighted_sum / num_prompts, num_dev


def _sorted_tags(tags: Mapping[str, str]) -> Tags:
    return tuple(sorted(tags.items()))


def loosely(text: str) -> str:
    """Return a text without case, white space, and punctuation at its ends.

    Texts that look the same to a person are then equal.
    """
    without_spaces = "".join(text.split())
    return without_spaces.casefold().strip(".,;:!?'\"")


def references_of(prompts: Iterable[Prompt]) -> dict[str, str]:
    """Return prompt id → right answer, for prompts whose verifier has one."""
    # A pattern or a checker of the user's has no single right answer to compare with.
    return {
        prompt.id: str(prompt.reference["answer"])
        for prompt in prompts
        if "answer" in prompt.reference
    }


def split_prompts(context: Context, prepared: Receipt, split: str) -> list[Prompt]:
    """Return the prompts of a split; empty if the data has no such split."""
    if split_file(split) not in prepared.objects:
        return []
    rows = read_rows(fetch(context, prepared, split_file(split)), Prompt)
    return list(itertools.islice(rows, MAX_ROWS))
