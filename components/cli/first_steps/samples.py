"""What a model said in a round, what was expected, and why it was accepted or dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from components.canonical import JsonObject
from components.contracts import artifacts
from components.contracts.rows import Dropped, Prompt, Sample, TrainingRow, read_rows
from components.contracts.summaries import SelectSummary
from components.errors import UserError
from components.report.views import RunView
from components.report.words import cut
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_receipt, read_summary

ACCEPTED = "accepted"
NOT_SELECTED = "not selected"
SHOWN_CHARACTERS = 600


@dataclass(frozen=True)
class ShownSample:
    """An answer as a person looks at it."""

    fate: str
    """`accepted`, the reason it was dropped for, or `not selected`."""
    prompt: str
    answer: str
    expected: str
    """The reference answer; empty where there is none."""
    detail: str
    """The filter's words; empty for an accepted one."""
    row: str
    """Its id, by which `explain` tells more."""


@dataclass(frozen=True)
class RoundSamples:
    """Samples of one round, in the order of its files."""

    round: int
    counts: dict[str, int]
    """Fate → samples of the whole round."""
    samples: tuple[ShownSample, ...]
    why_weak: str | None = None
    """Why nothing was trained on this round; None if it was, or is not selected yet."""


def samples_of(
    context: Context, view: RunView, round_number: int | None, fates: str, limit: int
) -> RoundSamples:
    """Return samples of a round.

    Args:
        context: Store of the run.
        view: The run.
        round_number: The round; None is the last one with samples.
        fates: `accepted`, `dropped`, a reason, or empty for all.
        limit: Samples at most, spread evenly over those that fit.

    Raises:
        UserError: The run has no samples of this round, or none of this fate.
    """
    number = _round_with_samples(view, round_number)
    select = _select_receipt(context, view, number)
    rows = (
        _selected(context, view, select)
        if select
        else _unselected(context, view, number)
    )
    all_samples = list(rows)
    counts: dict[str, int] = {}
    for sample in all_samples:
        counts[sample.fate] = counts.get(sample.fate, 0) + 1
    why_weak = read_summary(select, SelectSummary).why_weak if select else None
    fitting = [sample for sample in all_samples if _fits(sample, fates)]
    if not fitting and counts:
        there_are = ", ".join(f"{fate} {count}" for fate, count in counts.items())
        raise UserError(
            f"round {number} has no sample that is {fates!r} (there are: {there_are})"
        )
    total = len(fitting)
    if total > limit:
        # Neighbours belong to one prompt and resemble each other.
        fitting = [fitting[index * total // limit] for index in range(limit)]
    return RoundSamples(number, counts, tuple(fitting), why_weak)


def print_samples(console: Console, round_samples: RoundSamples) -> None:
    """Print samples one below the other, for terminals of any width."""
    counts = ", ".join(
        f"{fate} {count:,}" for fate, count in round_samples.counts.items()
    )
    console.print(
        Text(f"round {round_samples.round}: {counts or 'no samples'}", style="bold")
    )
    if round_samples.why_weak is not None:
        console.print(
            Text(
                f"nothing was trained: {cut(round_samples.why_weak, SHOWN_CHARACTERS)}",
                "yellow",
            )
        )
    for sample in round_samples.samples:
        console.print()
        style = "green" if sample.fate == ACCEPTED else "yellow"
        console.print(Text(sample.fate, style=style))
        for name, text in (
            ("prompt", sample.prompt),
            ("said", sample.answer),
            ("expected", sample.expected),
            ("why", sample.detail),
            ("row", sample.row),
        ):
            if text or name == "said":
                words = cut(text, SHOWN_CHARACTERS)
                console.print(Text.assemble((f"  {name:<9}", "dim"), words))


def as_document(round_samples: RoundSamples) -> dict[str, object]:
    """Return the samples for programs."""
    return {
        "round": round_samples.round,
        "counts": round_samples.counts,
        "why_weak": round_samples.why_weak,
        "samples": [_sample_document(sample) for sample in round_samples.samples],
    }


def _sample_document(sample: ShownSample) -> dict[str, str]:
    return {
        "fate": sample.fate,
        "prompt": sample.prompt,
        "said": sample.answer,
        "expected": sample.expected,
        "why": sample.detail,
        "row": sample.row,
    }


def _fits(sample: ShownSample, fates: str) -> bool:
    if fates == "dropped":
        return sample.fate != ACCEPTED
    return fates in ("", sample.fate)


def _round_with_samples(view: RunView, round_number: int | None) -> int:
    rounds = sorted(
        {task.last.round for task in view.tasks if task.last.step == "generate"}
    )
    if not rounds:
        raise UserError(
            f"run {view.run_id} has no samples yet: they are drawn in round 1"
        )
    if round_number is None:
        return rounds[-1]
    if round_number not in rounds:
        listed = ", ".join(map(str, rounds))
        raise UserError(
            f"run {view.run_id} has no samples of round {round_number} (of: {listed})"
        )
    return round_number


def _last_receipts(
    context: Context, view: RunView, step: str, round_number: int
) -> list[Receipt]:
    return [
        read_receipt(context, task.last.receipt)
        for task in view.tasks
        if task.last.step == step
        and task.last.round == round_number
        and task.last.receipt
    ]


def _select_receipt(
    context: Context, view: RunView, round_number: int
) -> Receipt | None:
    receipts = _last_receipts(context, view, "select", round_number)
    return receipts[-1] if receipts else None


def _selected(
    context: Context, view: RunView, select: Receipt
) -> Iterator[ShownSample]:
    expected = expected_answers(context, view, select)
    for row in read_rows(fetch(context, select, artifacts.ACCEPTED), TrainingRow):
        reference = expected.get(str(row.provenance.get("prompt_id")), "")
        yield ShownSample(ACCEPTED, row.prompt, row.completion, reference, "", row.id)
    round_number = read_summary(select, SelectSummary).round
    for dropped in read_rows(fetch(context, select, artifacts.DROPPED), Dropped):
        reference = expected.get(str(dropped.row.get("prompt_id")), "")
        prompt = str(dropped.row.get("prompt", ""))
        answer = str(dropped.row.get("text", ""))
        name = sample_id(dropped.row, round_number)
        yield ShownSample(
            dropped.reason, prompt, answer, reference, dropped.detail, name
        )


def sample_id(row: JsonObject, round_number: int) -> str:
    """Return the id that the row of a sample has, or would have."""
    return f"{row.get('prompt_id', '')}-r{round_number}-{row.get('index', 0)}"


def expected_answers(
    context: Context, view: RunView, select: Receipt
) -> dict[str, str]:
    """Return prompt id → reference answer, of the prompts that the samples of a selection answer."""
    return _expected(_prompts(context, view, select))


def _prompts(context: Context, view: RunView, select: Receipt) -> Iterator[Prompt]:
    """Yield the prompts that the samples of a selection answer."""
    round_number = read_summary(select, SelectSummary).round
    for generate in _last_receipts(context, view, "generate", round_number):
        yield from read_rows(fetch(context, generate, artifacts.PROMPTS), Prompt)


def _unselected(
    context: Context, view: RunView, round_number: int
) -> Iterator[ShownSample]:
    """Yield the samples of a round whose selection failed or is still to come."""
    for generate in _last_receipts(context, view, "generate", round_number):
        prompts = {
            prompt.id: prompt
            for prompt in read_rows(fetch(context, generate, artifacts.PROMPTS), Prompt)
        }
        expected = _expected(prompts.values())
        for sample in read_rows(fetch(context, generate, artifacts.SAMPLES), Sample):
            prompt = prompts[sample.prompt_id]
            detail = (
                "" if sample.finished else f"cut off after {sample.num_tokens} tokens"
            )
            name = f"{prompt.id}-r{round_number}-{sample.index}"
            yield ShownSample(
                NOT_SELECTED,
                prompt.text,
                sample.text,
                expected[prompt.id],
                detail,
                name,
            )


def _expected(prompts: Iterable[Prompt]) -> dict[str, str]:
    """Return prompt id → reference answer, empty where the verifier has none."""
    return {prompt.id: str(prompt.reference.get("answer", "")) for prompt in prompts}
