"""Figures of the audit of filters: `python -m tests.benchmarks.audit [--seed N]`. Two minutes; no model
is trained.

Samples with known verdicts pass a filter that keeps right and wrong ones with chances of its own,
and the product's `Audit` says whether the round is blocked.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np

from components.contracts.rows import Dropped, Prompt, Sample, prompt_id
from components.select.filter_audit import Audit
from components.select.scored_samples import (
    Block,
    Outcome,
    ScoredSample,
    make_scored_samples,
)
from components.statistics import binomial_upper
from tests.benchmarks.figures import record

ROUNDS = 400
GOOD = ((0.97, 0.99, 200), (0.9, 0.97, 200), (0.6, 0.9, 100), (0.97, 0.99, 100))
"""(accuracy of the model, precision of the filter, prompts)."""
USELESS = ((0.6, 200), (0.6, 400), (0.9, 400), (0.97, 200), (0.97, 400))
"""(accuracy of the model and precision of the filter, prompts)."""
KEPT = (0.95, 0.6)
"""Share of the right samples that filters keep."""


def scored(prompts: int) -> tuple[list[ScoredSample], list[ScoredSample]]:
    """A right sample of each prompt, and a wrong one."""
    texts = [f"{number:04d}" for number in range(prompts)]
    asked = [
        Prompt(
            id=prompt_id(text), text=text, verifier="exact", reference={"answer": "1"}
        )
        for text in texts
    ]
    by_id = {prompt.id: prompt for prompt in asked}

    def answered(text: str) -> list[ScoredSample]:
        return make_scored_samples(
            by_id,
            [
                Sample(
                    prompt_id=one,
                    index=0,
                    seed=0,
                    text=text,
                    num_tokens=1,
                    finished=True,
                )
                for one in by_id
            ],
        )

    return answered("1"), answered("2")


def verdicts(
    dice: np.random.Generator,
    accuracy: float,
    prompts: int,
    right_kept: float,
    wrong_kept: float,
) -> Counter[str]:
    """What the audit says in ROUNDS rounds: `blocked`, `unproved` or `helps`."""
    right_samples, wrong_samples = scored(prompts)
    said = Counter[str]()
    for _ in range(ROUNDS):
        is_right = dice.random(prompts) < accuracy
        is_kept = dice.random(prompts) < np.where(is_right, right_kept, wrong_kept)
        kept = dict(
            zip((one.prompt.id for one in right_samples), is_kept.tolist(), strict=True)
        )

        def keep(block: Block, kept: dict[str, bool] = kept) -> Outcome:
            passed = [one for one in block if kept[one.prompt.id]]
            num_dropped = len(block) - len(passed)
            return passed, [Dropped(reason="x", detail="", row={})] * num_dropped

        audit = Audit(
            [
                right if own else wrong
                for right, wrong, own in zip(
                    right_samples, wrong_samples, is_right, strict=True
                )
            ]
        )
        audit.pass_through("filter", keep)
        found = audit.summary()
        assert found is not None
        said[
            "blocked"
            if found.teaches_errors
            else "unproved"
            if found.unproved
            else "helps"
        ] += 1
    return said


def measure(dice: np.random.Generator) -> dict[str, tuple[float, str, str]]:
    """Name → (value, bound, note)."""
    refused: dict[str, float] = {}
    for accuracy, precision, prompts in GOOD:
        for kept in KEPT:
            # Right samples are `precision` of what is kept.
            wrong_kept = kept * accuracy * (1 - precision) / precision / (1 - accuracy)
            said = verdicts(dice, accuracy, prompts, kept, wrong_kept)
            name = f"{accuracy:.0%} right, filter {precision:.0%}, {prompts} prompts, {kept:.0%} kept"
            refused[name] = binomial_upper(said["blocked"], ROUNDS)
            print(name, dict(said))
    useless: dict[str, Counter[str]] = {}
    for accuracy, prompts in USELESS:
        for kept in KEPT:
            name = f"{accuracy:.0%} right, {prompts} prompts, {kept:.0%} kept"
            useless[name] = verdicts(dice, accuracy, prompts, kept, kept)
            print(name, dict(useless[name]))
    worst = max(refused, key=lambda name: refused[name])
    headline = "60% right, 400 prompts, 60% kept"
    shares = [
        f"{name}: {said['blocked'] / ROUNDS:.2f} blocked, {said['helps'] / ROUNDS:.2f} passed"
        for name, said in useless.items()
    ]
    return {
        "audit.good_filter_refused": (
            refused[worst],
            "≤ 0.05",
            f"exact 95 % upper bound of the share of rounds that a good filter blocks, {ROUNDS} each, "
            f"the worst of {len(refused)} settings: {worst}",
        ),
        "audit.useless_filter_refused": (
            useless[headline]["blocked"] / ROUNDS,
            "≥ 0.80",
            f"a filter that keeps right and wrong samples alike, {headline}; {'; '.join(shares)}; "
            "in the other rounds the audit warns",
        ),
    }


def main() -> None:
    """Simulate, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    given = parser.parse_args()
    figures = measure(np.random.Generator(np.random.PCG64(given.seed)))
    for name, (value, bound, note) in figures.items():
        print(f"{name} = {value:.4f} (bound {bound}) {note}")
        if not given.dry:
            command = f"python -m tests.benchmarks.audit --seed {given.seed}"
            record(name, value, "share", bound, command, given.seed, note)


if __name__ == "__main__":
    main()
