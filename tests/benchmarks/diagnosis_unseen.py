"""Faults that no rule of reflection was written with: milder ones, other kinds, and harmless ones."""

from __future__ import annotations

import random
from typing import Any

from tests.benchmarks.diagnosis_faults import ROUNDS, Fault, Rows, rounds, spaced, wrong


def _half_noisy(rows: Rows, dice: random.Random) -> None:
    for row in dice.sample(rows["train"], len(rows["train"]) // 4):
        row["completion"] = wrong(dice)


def _half_wrong_references(rows: Rows, dice: random.Random) -> None:
    for row in dice.sample(rows["unlabelled"], len(rows["unlabelled"]) * 2 // 5):
        row["completion"] = f"{wrong(dice)}."


def _half_contaminated(rows: Rows, dice: random.Random) -> None:
    rows["train"][:24] = [
        {**row, "prompt": spaced(row["prompt"], 2)} for row in rows["validation"][:24]
    ]


def _half_flooded(rows: Rows, dice: random.Random) -> None:
    """Two rows in five are one of eight, spaced differently."""
    some = rows["train"][:8]
    places = [(first, second) for first in range(5) for second in range(first, 5)]
    rows["train"] = rows["train"][:200] + [
        {**row, "prompt": spaced(row["prompt"], *place)}
        for row in some
        for place in places
    ]


MILDER: dict[str, Fault] = {
    "learning rate × 10": Fault(
        "learning_rate_too_high", recipe=rounds(learning_rate=0.02)
    ),
    "learning rate / 20": Fault(
        "learning_rate_too_low", recipe=rounds(learning_rate=1e-4)
    ),
    "a fifth of the steps": Fault("underfitting", recipe=rounds(steps=8)),
    "25 % wrong labels": Fault(
        "label_noise",
        acts_in=0,
        spoil=_half_noisy,
        recipe={"train": {"first": {"steps": 150, "learning_rate": 0.005}}},
    ),
    "eight rows, 120 times": Fault("duplicate_flood", acts_in=0, spoil=_half_flooded),
    "temperature 0.1": Fault(
        "low_diversity", recipe={"generate": {"temperature": 0.1}}
    ),
    "temperature 1.5": Fault(
        "temperature_too_high", recipe={"generate": {"temperature": 1.5}}
    ),
    "two wrong references in five": Fault(
        "verifier_false_negatives", spoil=_half_wrong_references
    ),
    "a tenth of the validation prompts in the labelled rows": Fault(
        "evaluation_contamination", acts_in=0, spoil=_half_contaminated
    ),
}
"""The same faults with less strength."""


def _shifted_answers(rows: Rows, dice: random.Random) -> None:
    """Two labelled rows in five have the answer of the row before them, as of a sheet that slipped."""
    answers = [row["completion"] for row in rows["train"]]
    for place in dice.sample(range(1, len(answers)), len(answers) * 2 // 5):
        rows["train"][place]["completion"] = answers[place - 1]


def _spelt_otherwise(rows: Rows, dice: random.Random) -> None:
    """References have blanks in them that no answer has."""
    for row in rows["unlabelled"]:
        row["completion"] = " ".join(row["completion"])


def _same_questions(rows: Rows, dice: random.Random) -> None:
    """The prompts to answer are sixteen, each spaced in fifteen ways."""
    places = [(first, second) for first in range(5) for second in range(first, 5)]
    rows["unlabelled"] = [
        {**row, "prompt": spaced(row["prompt"], *place)}
        for row in rows["unlabelled"][:16]
        for place in places
    ]


def _asked_again(rows: Rows, dice: random.Random) -> None:
    """Validation prompts, spelt letter by letter, are among the labelled rows."""
    rows["train"][:80] = [
        {**row, "prompt": " ".join(row["prompt"])} for row in rows["validation"][:80]
    ]


def _large_losses() -> None:
    """Every ninth loss is ten times too large, as of a batch of odd rows."""
    from components.train.process.loop import Loop

    whole, calls = Loop._update, [0]

    def broken(self: Any, rows: Any) -> tuple[float, int]:
        calls[0] += 1
        loss, positions = whole(self, rows)
        return (10 * loss if calls[0] % 9 == 0 else loss), positions

    Loop._update = broken  # type: ignore[method-assign]


OTHER_KINDS: dict[str, Fault] = {
    "answers of the row before": Fault(
        "label_noise",
        acts_in=0,
        spoil=_shifted_answers,
        recipe={"train": {"first": {"steps": 150, "learning_rate": 0.005}}},
    ),
    "references spelt otherwise": Fault(
        "verifier_false_negatives", spoil=_spelt_otherwise
    ),
    "sixteen prompts to answer, spaced in fifteen ways": Fault(
        "duplicate_flood", spoil=_same_questions
    ),
    "validation prompts letter by letter": Fault(
        "evaluation_contamination", acts_in=0, spoil=_asked_again
    ),
    "greedy samples": Fault("low_diversity", recipe={"generate": {"temperature": 0.0}}),
    "losses that spike": Fault(
        "optimizer_trouble", bug=_large_losses, bug_from_round=1
    ),
    "a learning rate that is warmed up to the end": Fault(
        "learning_rate_too_low",
        recipe={
            "train": {"rounds": {**ROUNDS, "learning_rate": 2e-4}, "warmup_share": 1.0}
        },
    ),
}
"""The same causes by faults of another kind. No rule may be changed for the sake of these: a new rule
wants new faults here."""


def _spaces(rows: Rows, dice: random.Random) -> None:
    """A tenth of the labelled rows has a blank in its prompt, and a right answer."""
    for row in dice.sample(rows["train"], len(rows["train"]) // 10):
        row["prompt"] = spaced(row["prompt"], 2)


def _twice(rows: Rows, dice: random.Random) -> None:
    """A tenth of the labelled rows comes twice."""
    rows["train"][-40:] = [dict(row) for row in rows["train"][:40]]


HARMLESS: dict[str, Fault] = {
    "learning rate × 1.5": Fault("", recipe=rounds(learning_rate=0.003)),
    "half as many steps again": Fault("", recipe=rounds(steps=60)),
    "temperature 0.9": Fault("", recipe={"generate": {"temperature": 0.9}}),
    "eight samples a prompt": Fault("", recipe={"generate": {"samples_per_prompt": 8}}),
    "a blank in a tenth of the prompts": Fault("", spoil=_spaces),
    "a tenth of the rows twice": Fault("", spoil=_twice),
}
"""Changes that do no harm."""
