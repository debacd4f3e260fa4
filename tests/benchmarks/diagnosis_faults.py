"""The sound task of `diagnosis`, and the faults that the rules of reflection were written with."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SPLITS = {"train": 400, "dev": 240, "unlabelled": 240, "validation": 240, "test": 20}
"""As many dev prompts as validation prompts: so does `prepare` by default."""
Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Fault:
    """Something wrong, and what reflection should say of it."""

    cause: str
    acts_in: int = 1
    """The first round that shows it."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Section → keys, over the sound recipe."""
    spoil: Callable[[Rows, random.Random], None] | None = None
    """Changes the data."""
    bug: Callable[[], None] | None = None
    """Breaks the code that trains, in the process of that training."""
    bug_from_round: int = 0
    from_trained: bool = False
    """The base is what round 0 of the sound campaign made."""


LETTERS = "abcdefghijklmnopqrst"
SECRET = dict(zip(LETTERS, random.Random(5).sample(LETTERS, len(LETTERS)), strict=True))
FREQUENCIES = [1 / (place + 1) for place in range(len(LETTERS))]
"""Some letters are rare: a model learns them late, so it gets better bit by bit."""


def _row(letters: str) -> dict[str, Any]:
    return {
        "prompt": f"{letters}=",
        "completion": "".join(SECRET[letter] for letter in letters[2:]),
    }


def _letters(dice: random.Random, count: int, length: int = 4) -> list[str]:
    """Different strings."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(dice.choices(LETTERS, FREQUENCIES, k=length))] = None
    return list(found)


def wrong(dice: random.Random) -> str:
    return "".join(dice.choices(LETTERS, k=2))


def sound_data(dice: random.Random) -> Rows:
    """The task: the last two letters of four, in a secret code."""
    words = iter(_letters(dice, sum(SPLITS.values())))
    return {
        split: [_row(next(words)) for _ in range(count)]
        for split, count in SPLITS.items()
    }


def _noisy(rows: Rows, dice: random.Random) -> None:
    for row in dice.sample(rows["train"], len(rows["train"]) * 2 // 5):
        row["completion"] = wrong(dice)


def _flooded(rows: Rows, dice: random.Random) -> None:
    """Most rows are the same eight, spaced differently."""
    some = rows["train"][:8]
    places = [(first, second) for first in range(5) for second in range(first, 5)]
    rows["train"] = rows["train"][:120] + [
        {**row, "prompt": spaced(row["prompt"], *place)}
        for row in some
        for place in places
        for _ in (0, 1)
    ]


def spaced(text: str, *places: int) -> str:
    for place in sorted(places, reverse=True):
        text = f"{text[:place]} {text[place:]}"
    return text


def _contaminated(rows: Rows, dice: random.Random) -> None:
    rows["train"][:120] = [
        {**row, "prompt": spaced(row["prompt"], 2)} for row in rows["validation"][:120]
    ]


def _wrong_references(rows: Rows, dice: random.Random) -> None:
    for row in dice.sample(rows["unlabelled"], len(rows["unlabelled"]) * 3 // 5):
        row["completion"] = f"{wrong(dice)}."


def _hard(rows: Rows, dice: random.Random) -> None:
    """Nearly all prompts are of a kind that the model cannot do."""
    rows["unlabelled"][12:] = [
        {
            "prompt": f"{word}=",
            "completion": "".join(SECRET[one] for one in reversed(word)),
        }
        for word in _letters(dice, len(rows["unlabelled"]) - 12, 7)
    ]


def _few(rows: Rows, dice: random.Random) -> None:
    """Few rows, some of them wrong: there is something to learn by heart."""
    del rows["train"][160:]
    del rows["unlabelled"][40:]
    for row in dice.sample(rows["train"], 32):
        row["completion"] = wrong(dice)


def _unlike(rows: Rows, dice: random.Random) -> None:
    """A few labelled rows, and all prompts to answer, are of another kind: the first two letters of
    six, of which the two are among the most frequent."""

    def some(count: int) -> list[dict[str, Any]]:
        words = [
            f"{''.join(dice.choices(LETTERS[:3], k=2))}{rest}"
            for rest in _letters(dice, count)
        ]
        return [
            {
                "prompt": f"{word}=",
                "completion": "".join(SECRET[one] for one in word[:2]),
            }
            for word in words
        ]

    few = len(rows["train"]) * 3 // 20
    rows["train"][:few] = some(few)
    rows["unlabelled"] = some(len(rows["unlabelled"]))


def _never_ends() -> None:
    """Rows are trained on without their end-of-turn token."""
    import components.train.process.worker
    from components.modeling.encoding import Codec, Encoded

    whole = Codec.encode

    def without_end(self: Codec, row: Any, turns: Any = "all") -> list[Encoded]:
        return [
            Encoded([*one.ids[:-1], *one.ids[one.num_masked : -1]], one.num_masked)
            for one in whole(self, row, turns)
        ]

    Codec.encode = without_end  # type: ignore[method-assign]
    # The check before the first step would have noticed: it is broken too.
    setattr(components.train.process.worker, "check_rows", lambda *about: None)  # noqa: B010


def _overflow() -> None:
    """Some losses are not finite as long as steps are large, never three in a row: half precision
    without care."""
    from components.train.process.loop import Loop

    whole, calls = Loop._update, [0]

    def broken(self: Any, rows: Any) -> tuple[float, int]:
        calls[0] += 1
        loss, positions = whole(self, rows)
        overflows = (
            calls[0] % 5 == 0 and self.engine.optimizer.param_groups[0]["lr"] > 0.0012
        )
        return (float("nan") if overflows else loss), positions

    Loop._update = broken  # type: ignore[method-assign]


ROUNDS = {"steps": 40, "learning_rate": 0.002}


def rounds(**changes: float) -> dict[str, Any]:
    return {"train": {"rounds": {**ROUNDS, **changes}}}


FAULTS: dict[str, Fault] = {
    "learning rate × 16": Fault(
        "learning_rate_too_high", recipe=rounds(learning_rate=0.032)
    ),
    "learning rate / 40": Fault(
        "learning_rate_too_low", recipe=rounds(learning_rate=5e-5)
    ),
    "far too many steps on few rows": Fault(
        "overfitting",
        spoil=_few,
        recipe={
            "train": {
                "rounds": {"steps": 500, "learning_rate": 0.005},
                "evaluate_every": 20,
                "early_stopping_patience": 20,
            },
            "select": {"max_per_prompt": 1, "labelled_share": 0.9},
        },
    ),
    "a tenth of the steps": Fault("underfitting", recipe=rounds(steps=6)),
    "adapters of rank 1 on one module": Fault(
        "too_little_capacity",
        from_trained=True,
        recipe={
            "train": {
                "lora": {"rank": 1, "targets": ["q_proj"]},
                "first": {"steps": 1, "learning_rate": 1e-5},
                "rounds": {"steps": 60, "learning_rate": 0.01},
            }
        },
    ),
    "40 % wrong labels": Fault(
        "label_noise",
        acts_in=0,
        spoil=_noisy,
        recipe={"train": {"first": {"steps": 150, "learning_rate": 0.005}}},
    ),
    "eight rows, 240 times": Fault("duplicate_flood", acts_in=0, spoil=_flooded),
    "temperature 0.02": Fault(
        "low_diversity", recipe={"generate": {"temperature": 0.02}}
    ),
    "temperature 1.8": Fault(
        "temperature_too_high", recipe={"generate": {"temperature": 1.8}}
    ),
    "wrong references": Fault("verifier_false_negatives", spoil=_wrong_references),
    "a verifier that accepts anything": Fault(
        "verifier_too_lenient", recipe={"unlabelled": "regex"}
    ),
    "validation prompts in the labelled rows": Fault(
        "evaluation_contamination", acts_in=0, spoil=_contaminated
    ),
    "answers cut after two tokens": Fault(
        "truncation", acts_in=0, recipe={"generate": {"max_new_tokens": 2}}
    ),
    "no end-of-turn token in training": Fault(
        "stop_token_wrong", bug=_never_ends, bug_from_round=1
    ),
    "prompts too hard": Fault("too_few_accepted", spoil=_hard),
    "losses that overflow": Fault("optimizer_trouble", bug=_overflow, bug_from_round=1),
    "a quarter labelled, the rest of another kind": Fault(
        "labelled_share_too_low",
        spoil=_unlike,
        recipe={
            "select": {"labelled_share": 0.25},
            "train": {
                "first": {"steps": 110, "learning_rate": 0.005},
                "rounds": {**ROUNDS, "learning_rate": 0.003},
            },
        },
    ),
}
