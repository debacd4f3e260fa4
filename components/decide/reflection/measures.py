"""What reflection looks at: one round in numbers, from its receipts. Each has a name and is absent
where it was not measured; the names are what a predicted effect is stated in."""

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

MAX_ROWS = 200_000
"""Rows of a file that are looked at."""
AROUND, REACH = 6, 60
"""A loss is held against up to so many before it and after it, no farther away than REACH steps."""
FEW_MINORITY = 10
"""Of fewer answers than these no share is taken."""
LEFT_OUT = ("solved", "diversity")
"""Reasons for a drop that may leave nothing of a prompt that was answered right."""
ALIKE = ("duplicate", "near_duplicate", "same_path", "cap", *LEFT_OUT)
"""Reasons for a drop that say nothing against an answer: there are enough like it."""


def loss_measures(
    train: TrainSummary, losses: Sequence[float | None], tokens: Sequence[int] = ()
) -> dict[str, float]:
    """Of the training: `first_loss` (before any update), `last_loss` (mean of a tenth of the
    steps), `peak_loss` (highest mean of as many steps in a row), `loss_fall` (relative, between
    means), `loss_spikes`, `skipped_steps`, `dev_rise` (final over best), and `above_dev`
    (last training loss over final dev loss). `losses` and `tokens` are those of each step."""
    known = [
        (place, loss)
        for place, loss in enumerate(losses)
        if loss is not None and math.isfinite(loss)
    ]
    finite = [loss for _, loss in known]
    found = {"skipped_steps": float(train.skipped_steps + len(losses) - len(finite))}
    best, final = train.best_dev_loss, train.final_dev_loss
    if best is not None and final is not None:
        found["dev_rise"] = final - best
        found["dev_loss"] = best
    if not finite:
        return found
    width = max(len(finite) // 10, min(3, -(-len(finite) // 3)))
    windows = [fmean(finite[start : start + width]) for start in range(len(finite) - width + 1)]
    found |= {"first_loss": finite[0], "last_loss": windows[-1], "peak_loss": max(windows)}
    found["loss_fall"] = (windows[0] - windows[-1]) / max(windows[0], 1e-9)
    found["loss_spikes"] = float(
        len(spikes(finite, [tokens[place] for place, _ in known] if tokens else ()))
    )
    if final is not None:
        found["above_dev"] = windows[-1] - final
    return found


def human_loss_measures(candidate: ModelScores, champion: ModelScores | None) -> dict[str, float]:
    """`human_loss` and `human_loss_rise` against the champion, nats per token on human text."""
    if candidate.perplexity is None:
        return {}
    found = {"human_loss": math.log(candidate.perplexity)}
    if champion is not None and champion.perplexity is not None:
        found["human_loss_rise"] = found["human_loss"] - math.log(champion.perplexity)
    return found


def spikes(losses: Sequence[float], tokens: Sequence[int] = ()) -> list[int]:
    """Steps whose loss stands far above those around it: three times their median and half a nat
    more. With the tokens of each step, only batches of about the same length are compared: rows of
    another length may be another task."""

    def like(place: int, others: range) -> Iterator[float]:
        alike = (one for one in others if not tokens or _alike(tokens[place], tokens[one]))
        return (losses[one] for one in itertools.islice(alike, AROUND))

    found = []
    for place, loss in enumerate(losses):
        before, after = (
            range(place - 1, max(-1, place - 1 - REACH), -1),
            range(place + 1, len(losses))[:REACH],
        )
        around = [*like(place, before), *like(place, after)]
        if len(around) >= 4 and loss > max(3 * median(around), median(around) + 0.5):
            found.append(place)
    return found


def _alike(first: int, second: int) -> bool:
    return max(first, second) <= 1.2 * min(first, second)


def answer_measures(
    candidate: Sequence[Result], champion: Sequence[Result] | None, references: Mapping[str, str]
) -> dict[str, float]:
    """Of the validation answers: `accuracy`, `finished_share`, `same_answers` (share that the
    champion gives too), `runs_on` and `cut_short` (share of all answers that did not end and hold
    the right answer and more, or its beginning alone)."""
    found = {
        name: fmean(getattr(row, kind) for row in candidate)
        for name, kind in (("accuracy", "correct"), ("finished_share", "finished"))
    }
    unfinished = [
        (row.text.strip(), references.get(row.prompt_id, "").strip())
        for row in candidate
        if not row.finished
    ]
    told = [(text, right) for text, right in unfinished if right]
    found["runs_on"] = sum(text.startswith(right) and text != right for text, right in told) / len(
        candidate
    )
    found["cut_short"] = sum(right.startswith(text) for text, right in told) / len(candidate)
    if champion is not None:
        before = {row.prompt_id: row.text for row in champion}
        found["same_answers"] = fmean(before.get(row.prompt_id) == row.text for row in candidate)
    return found


def mix_rows(context: Context, mix: Receipt) -> Iterator[TrainingRow]:
    """The first MAX_ROWS rows of a training mix."""
    return itertools.islice(read_rows(fetch(context, mix, MIX), TrainingRow), MAX_ROWS)


def mix_measures(rows: Iterable[TrainingRow], validation: Iterable[Prompt]) -> dict[str, float]:
    """Of the training mix: `labelled_weight` (share of what is drawn), `repeated` (share that
    repeats an earlier row but for spaces, case and punctuation at the ends), `repeated_labelled`
    (the part of it that is labelled), `contaminated` (share of the validation prompts that are
    trained on, alike), and `answer_shift` (Jensen-Shannon distance, 0 to 1, between the last
    characters of labelled and self-made answers)."""
    seen, texts = set[tuple[str, str]](), set[str]()
    weight, repeated = defaultdict[str, float](float), defaultdict[str, float](float)
    endings: dict[str, dict[str, float]] = {
        "labelled": defaultdict(float),
        "self": defaultdict(float),
    }
    for row in rows:
        key = (loosely(row.prompt), loosely(row.completion))
        weight[row.source] += row.weight
        if key in seen:
            repeated[row.source] += row.weight
        seen.add(key)
        if row.prompt:
            texts.add(key[0])
            endings[row.source][key[1][-1:]] += row.weight
    total = sum(weight.values())
    if not total:
        return {}
    prompts = [loosely(prompt.text) for prompt in validation]
    found = {
        "labelled_weight": weight["labelled"] / total,
        "repeated": sum(repeated.values()) / total,
        "repeated_labelled": repeated["labelled"] / total,
        "contaminated": sum(text in texts for text in prompts) / max(1, len(prompts)),
    }
    if endings["labelled"] and endings["self"]:
        found["answer_shift"] = jensen_shannon(endings["labelled"], endings["self"])
    return found


def verifier_measures(votes: Votes, champion: Sequence[Result]) -> dict[str, float]:
    """What the verifier says of the answers most samples of a prompt agree on, beside what the
    champion is known to get right on validation prompts with the same tags.

    `agreement`: mean share of a prompt's samples that give its most frequent answer;
    `majority_passed`: share of the `majority_prompts` whose most frequent answer the verifier
    accepts; `majority_expected`: the champion's accuracy; `verifier_z`: how many standard errors
    the former is above the latter; `refused_agreement`, `passed_agreement`: agreement on prompts of
    either kind; `disputed`, `minority_passed`: share of accepted answers that are not the most
    frequent one, and share of those that the verifier accepts.
    """
    found = {
        "agreement": votes.agreement,
        "majority_passed": votes.prompts_passed / votes.prompts,
        "disputed": votes.disputed / max(1, votes.accepted),
        "majority_prompts": float(votes.prompts),
    }
    if votes.minority >= FEW_MINORITY:
        found["minority_passed"] = votes.minority_passed / votes.minority
    if votes.passed_agreement is not None:
        found["passed_agreement"] = votes.passed_agreement
    if votes.refused_agreement is not None:
        found["refused_agreement"] = votes.refused_agreement
    expected, number = _expected(votes, champion)
    if number:
        found["majority_expected"] = expected
        found["verifier_z"] = two_proportions_z(
            found["majority_passed"], votes.prompts, expected, number
        )
    return found


def _expected(votes: Votes, champion: Sequence[Result]) -> tuple[float, int]:
    """(accuracy of the champion on validation prompts tagged like these, how many they are)."""
    verdicts: dict[tuple[tuple[str, str], ...], list[bool]] = defaultdict(list)
    for row in champion:
        verdicts[tuple(sorted(row.tags.items()))].append(row.correct)
    known = {
        tags: kind.prompts
        for kind in votes.kinds
        if (tags := tuple(sorted(kind.tags.items()))) in verdicts
    }
    if not known:
        return 0.0, 0
    total = sum(known.values())
    accuracy = sum(count * fmean(verdicts[tags]) for tags, count in known.items()) / total
    return accuracy, sum(len(verdicts[tags]) for tags in known)


def loosely(text: str) -> str:
    """A text without case, white space and punctuation at its ends: what looks the same to a
    person."""
    return "".join(text.split()).casefold().strip(".,;:!?'\"")


def references_of(prompts: Iterable[Prompt]) -> dict[str, str]:
    """Prompt id → right answer, where the verifier has one."""
    return {one.id: str(one.reference["answer"]) for one in prompts if "answer" in one.reference}


def validation_prompts(context: Context, prepared: Receipt) -> dict[str, Prompt]:
    """The validation prompts by id."""
    rows = read_rows(fetch(context, prepared, split_file("validation")), Prompt)
    return {prompt.id: prompt for prompt in itertools.islice(rows, MAX_ROWS)}
