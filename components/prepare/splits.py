"""Splits that share no prompt.

Each prompt belongs to one split: the one it was given, or for `auto` the one its hash falls into.
Where sources disagree, evaluation wins: a training row whose prompt is measured on is dropped and
counted, never kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from components.canonical import derived_seed
from components.contracts.recipe import Fractions
from components.contracts.rows import Dropped, Prompt, Split, TrainingRow
from components.errors import UserError
from components.prepare.examples import Example
from components.verifiers import pattern_problem, verify

Target = Split | Literal["auto"]

CLAIM_ORDER: tuple[Split, ...] = (
    "vault",
    "test",
    "validation",
    "audit",
    "retention",
    "dev",
    "train",
    "unlabelled",
)
"""A prompt that sources put into several splits stays in the first of these."""
_ASKED: tuple[Split, ...] = ("vault", "test", "validation", "audit", "unlabelled")
_DROP_REASON = {
    "vault": "in_evaluation",
    "test": "in_evaluation",
    "validation": "in_evaluation",
    "audit": "in_evaluation",
}


@dataclass
class Splits:
    """What `prepare` writes, one field per file."""

    train: list[TrainingRow] = field(default_factory=list)
    dev: list[TrainingRow] = field(default_factory=list)
    retention: list[TrainingRow] = field(default_factory=list)
    unlabelled: list[Prompt] = field(default_factory=list)
    validation: list[Prompt] = field(default_factory=list)
    test: list[Prompt] = field(default_factory=list)
    vault: list[Prompt] = field(default_factory=list)
    audit: list[Prompt] = field(default_factory=list)
    rejected: list[Dropped] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Rows per split."""
        return {name: len(getattr(self, name)) for name in sorted(CLAIM_ORDER)}

    @property
    def rejected_counts(self) -> dict[str, int]:
        """Reason → rows."""
        return dict(sorted(Counter(row.reason for row in self.rejected).items()))


def make_splits(
    examples: Iterable[tuple[Target, Example] | Dropped], fractions: Fractions, seed: int
) -> Splits:
    """Assign every example to one split and drop, with a reason, what may not be in it.

    If no source gives unlabelled prompts, the questions of the train split serve. Raises UserError
    if there is nothing to train on, to sample from or to measure on.
    """
    splits = Splits()
    assigned: dict[Split, list[Example]] = {name: [] for name in CLAIM_ORDER}
    for item in examples:
        if isinstance(item, Dropped):
            splits.rejected.append(item)
            continue
        target, example = item
        split = _auto_split(example, fractions, seed) if target == "auto" else target
        if refusal := _unfit(split, example):
            splits.rejected.append(_drop("unverifiable", refusal, example))
        else:
            assigned[split].append(example)
    kept = _claim(assigned, splits.rejected)
    for name in ("train", "dev", "retention"):
        setattr(splits, name, [example.as_training_row() for example in kept[name]])
    for name in _ASKED:
        setattr(splits, name, [example.as_prompt() for example in kept[name]])
    if not splits.unlabelled:
        splits.unlabelled = _questions(kept["train"])
    _check(splits, {name: {example.identity for example in rows} for name, rows in kept.items()})
    return splits


def _auto_split(example: Example, fractions: Fractions, seed: int) -> Split:
    """The split that the hash of prompt and seed falls into; raw text is never asked, so it is for
    training."""
    place = derived_seed("split", seed, example.identity) / 2**63
    if place < fractions.dev:
        return "dev"
    if not example.prompt:
        return "train"
    if place < fractions.dev + fractions.validation:
        return "validation"
    if place < fractions.dev + fractions.validation + fractions.test:
        return "test"
    return "train"


def _unfit(split: Split, example: Example) -> str:
    """Why an example cannot be in a split, empty if it can: answers to a question are checked by
    its verifier, so the verifier must accept the reference answer itself."""
    if split not in _ASKED or example.completion is None:
        return ""
    if not example.prompt:
        return "raw text asks nothing; give it split train, dev or retention"
    if example.verifier == "regex":
        problem = pattern_problem(example.completion)
        return f"pattern: {problem}" if problem else ""
    return (
        ""
        if verify(example.as_prompt(), example.completion)
        else f"verifier {example.verifier} refuses the reference answer"
    )


def _claim(
    assigned: dict[Split, list[Example]], rejected: list[Dropped]
) -> dict[Split, list[Example]]:
    owner: dict[str, Split] = {}
    for name in CLAIM_ORDER:
        for example in assigned[name]:
            owner.setdefault(example.identity, name)
    kept: dict[Split, list[Example]] = {}
    for name in CLAIM_ORDER:
        seen: set[tuple[str, str | None]] = set()
        kept[name] = []
        for example in assigned[name]:
            first = owner[example.identity]
            # A question may be taught with several answers; it is asked once.
            key = (example.identity, None if name in _ASKED else example.completion)
            if first != name:
                rejected.append(
                    _drop(
                        _DROP_REASON.get(first, f"in_{first}"),
                        f"its prompt is in {first}, this row was for {name}",
                        example,
                    )
                )
            elif key in seen:
                rejected.append(_drop("duplicate", f"twice in {name}", example))
            else:
                seen.add(key)
                kept[name].append(example)
    return kept


def _questions(train: list[Example]) -> list[Prompt]:
    """The train split's prompts, each once; raw text and rows that their verifier cannot check ask
    nothing."""
    prompts = {
        example.identity: example
        for example in reversed(train)
        if example.prompt and not _unfit("unlabelled", example)
    }
    return [example.as_prompt() for example in reversed(prompts.values())]


def _check(splits: Splits, members: dict[Split, set[str]]) -> None:
    for place, name in enumerate(CLAIM_ORDER):
        for other in CLAIM_ORDER[place + 1 :]:
            shared = members[name] & members[other]
            assert not shared, (
                f"splits {name} and {other} share {len(shared)} prompts, first {min(shared)}"
            )
    remedies = {
        "train": "give a source with answers split: train, or raise data.fractions.train or a task's `labelled`",
        "unlabelled": "give a source split: unlabelled, or training rows with prompts",
        "validation": "give a source split: validation, raise data.fractions.validation, or add rows",
        "test": "give a source split: test, raise data.fractions.test, or add rows",
    }
    for split, remedy in remedies.items():
        if not getattr(splits, split):
            reasons = ", ".join(
                f"{reason} {count}" for reason, count in splits.rejected_counts.items()
            )
            raise UserError(
                f"data: split {split} is empty; {remedy}"
                + (f" (rejected rows: {reasons})" if reasons else "")
            )


def _drop(reason: str, detail: str, example: Example) -> Dropped:
    place = ", ".join(str(value) for value in example.provenance.values())
    row = {"prompt": example.prompt[:500], "completion": (example.completion or "")[:500]}
    return Dropped(reason=reason, detail=f"{place}: {detail}", row=row)
