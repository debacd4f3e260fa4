"""What reflection looks at: one round in numbers, from its receipts. Each has a name and is absent
where it was not measured; the names are what a predicted effect is stated in."""

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
"""Rows of a file that are looked at."""
AROUND, REACH = 6, 60
"""A loss is held against up to so many before it and after it, no farther away than REACH steps."""
NOT_VERIFIED = ("in_evaluation", "contamination", "unfinished", "empty", "length")
"""Reasons for a drop that come before the verifier or say nothing of it."""

FEW_MINORITY = 10
"""Of fewer answers than these no share is taken."""
LEFT_OUT = ("solved", "diversity")
"""Reasons for a drop that may leave nothing of a prompt that was answered right."""
ALIKE = ("duplicate", "near_duplicate", "same_path", "cap", *LEFT_OUT)
"""Reasons for a drop that say nothing against an answer: there are enough like it."""


@dataclass(frozen=True)
class RoundFiles:
    """Where the rows of a round are."""

    prepared: Receipt
    select: Receipt | None
    """None in round 0."""
    generates: tuple[Receipt, ...]


def loss_measures(
    train: Mapping[str, Any], losses: Sequence[float | None], tokens: Sequence[int] = ()
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
    found = {"skipped_steps": float(train.get("skipped_steps") or 0) + len(losses) - len(finite)}
    best, final = train.get("best_dev_loss"), train.get("final_dev_loss")
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


def human_loss_measures(
    candidate: Mapping[str, Any], champion: Mapping[str, Any]
) -> dict[str, float]:
    """`human_loss` and `human_loss_rise` against the champion, nats per token on human text, from
    the summaries of what was measured of both."""
    losses = [math.log(one["perplexity"]) for one in (candidate, champion) if one.get("perplexity")]
    found = {"human_loss": losses[0]} if losses else {}
    return {**found, "human_loss_rise": losses[0] - losses[1]} if len(losses) == 2 else found


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


def row_measures(
    context: Context,
    files: RoundFiles,
    champion: Sequence[Result] | None,
    validation: Mapping[str, Prompt],
) -> dict[str, float]:
    """Of the rows a round trained on: see `mix_measures` and `verifier_measures`."""
    if files.select is None:
        rows = _rows(context, files.prepared, "splits/train.jsonl", TrainingRow)
        return mix_measures(rows, validation.values())
    found = mix_measures(
        _rows(context, files.select, "mix.jsonl", TrainingRow), validation.values()
    )
    if champion is None:
        return found
    prompts, samples = dict[str, Prompt](), list[Sample]()
    # Shorter or longer prompts than validation has are of another kind: what is known there says
    # nothing of them.
    lengths = [len(one.text) for one in validation.values()]
    shortest, longest = min(lengths, default=0), max(lengths, default=0)
    for shard in files.generates:
        own = _rows(context, shard, "prompts.jsonl", Prompt)
        prompts.update((one.id, one) for one in own if shortest <= len(one.text) <= longest)
        samples += _rows(context, shard, "samples.jsonl", Sample)
    dropped = _rows(context, files.select, "dropped.jsonl", Dropped)
    return found | verifier_measures(prompts, samples, dropped, champion)


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


def verifier_measures(
    prompts: Mapping[str, Prompt],
    samples: Sequence[Sample],
    dropped: Iterable[Dropped],
    champion: Sequence[Result],
) -> dict[str, float]:
    """What the verifier says of the answers most samples of a prompt agree on, beside what the
    champion is known to get right on validation prompts with the same tags.

    `agreement`: mean share of a prompt's samples that give its most frequent answer;
    `majority_passed`: share of the `majority_prompts` whose most frequent answer the verifier
    accepts; `majority_expected`: the champion's accuracy; `verifier_z`: how many standard errors
    the former is above the latter; `refused_agreement`, `passed_agreement`: agreement on prompts of
    either kind; `disputed`, `minority_passed`: share of accepted answers that are not the most
    frequent one, and share of those that the verifier accepts.
    """
    reasons = {(row.row.get("prompt_id"), row.row.get("index")): row.reason for row in dropped}
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if (
            sample.prompt_id in prompts
            and reasons.get((sample.prompt_id, sample.index)) not in NOT_VERIFIED
        ):
            groups[sample.prompt_id].append(sample)
    agreement: dict[bool, list[float]] = {True: [], False: []}
    disputed = accepted = minority = minority_passed = 0
    for identity, own in groups.items():
        votes = Counter(sample.text.strip() for sample in own)
        answer, count = votes.most_common(1)[0]
        passed = [sample for sample in own if reasons.get((identity, sample.index)) != "verifier"]
        agreement[any(sample.text.strip() == answer for sample in passed)].append(count / len(own))
        minority += len(own) - count
        minority_passed += sum(sample.text.strip() != answer for sample in passed)
        kept = [
            sample for sample in passed if reasons.get((identity, sample.index), ALIKE[0]) in ALIKE
        ]
        accepted += len(kept)
        disputed += sum(sample.text.strip() != answer for sample in kept)
    num_prompts = len(agreement[True]) + len(agreement[False])
    if not num_prompts:
        return {}
    found = {
        "agreement": fmean(agreement[True] + agreement[False]),
        "majority_passed": len(agreement[True]) / num_prompts,
        "disputed": disputed / max(1, accepted),
        "majority_prompts": float(num_prompts),
    }
    if minority >= FEW_MINORITY:
        found["minority_passed"] = minority_passed / minority
    found |= {
        f"{name}_agreement": fmean(own)
        for name, own in (("passed", agreement[True]), ("refused", agreement[False]))
        if own
    }
    expected, number = _expected(
        [prompts[identity] for identity in groups if identity in prompts], champion
    )
    if number:
        found["majority_expected"] = expected
        found["verifier_z"] = two_proportions_z(
            found["majority_passed"], num_prompts, expected, number
        )
    return found


def _expected(prompts: Sequence[Prompt], champion: Sequence[Result]) -> tuple[float, int]:
    """(accuracy of the champion on validation prompts tagged like these, how many they are)."""
    verdicts: dict[tuple[tuple[str, str], ...], list[bool]] = defaultdict(list)
    for row in champion:
        verdicts[tuple(sorted(row.tags.items()))].append(row.correct)
    kinds = Counter(tuple(sorted(prompt.tags.items())) for prompt in prompts)
    known = {kind: count for kind, count in kinds.items() if kind in verdicts}
    if not known:
        return 0.0, 0
    total = sum(known.values())
    return sum(count * fmean(verdicts[kind]) for kind, count in known.items()) / total, sum(
        len(verdicts[kind]) for kind in known
    )


def loosely(text: str) -> str:
    """A text without case, white space and punctuation at its ends: what looks the same to a
    person."""
    return "".join(text.split()).casefold().strip(".,;:!?'\"")


def references_of(prompts: Iterable[Prompt]) -> dict[str, str]:
    """Prompt id → right answer, where the verifier has one."""
    return {one.id: str(one.reference["answer"]) for one in prompts if "answer" in one.reference}


def validation_prompts(context: Context, prepared: Receipt) -> dict[str, Prompt]:
    """The validation prompts by id."""
    return {one.id: one for one in _rows(context, prepared, "splits/validation.jsonl", Prompt)}


def _rows(context: Context, receipt: Receipt, name: str, kind: Any) -> Iterator[Any]:
    """The first MAX_ROWS rows of a file; none if there is no such file."""
    if name in receipt.objects:
        yield from itertools.islice(read_rows(fetch(context, receipt, name), kind), MAX_ROWS)
