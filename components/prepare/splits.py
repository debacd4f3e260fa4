"""Splits that share no prompt.

Each prompt belongs to one split: the one it was given, or for `auto` the one that `division` finds.
Where sources disagree, evaluation wins: a training row whose prompt is measured on is dropped and
counted, never trained on. So is one that holds an evaluation prompt in another form: in
lower case, with a label before it, or inside a text (`components/contamination.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

from components.contamination import Overlap
from components.contracts.recipe import Fractions
from components.contracts.rows import Dropped, Prompt, Split, TrainingRow, spoken
from components.errors import UserError
from components.prepare.division import divide
from components.prepare.earlier_prompts import NO_EARLIER_PROMPTS, EarlierPrompts
from components.prepare.examples import Example
from components.verifiers import pattern_problem, prompt_problem, verdict_of

Target = Split | Literal["auto"]
Assigned = tuple[Target, Example]
ExamplesOfSplits = dict[Split, list[Example]]

# Splits that decide or release come first: a prompt that was trained on measures nothing.
CLAIM_ORDER: tuple[Split, ...] = (
    "vault",
    "test",
    "validation",
    "audit",
    "retention",
    "dev_prompts",
    "dev",
    "train",
    "unlabelled",
)
"""A prompt that sources put into several splits stays in the first of these."""
_PROMPT_SPLITS: tuple[Split, ...] = (
    "vault",
    "test",
    "validation",
    "audit",
    "dev_prompts",
    "unlabelled",
)
"""Splits of prompts that a model is asked; the others hold rows with their answers."""
_EVALUATION_SPLITS: tuple[Split, ...] = ("vault", "test", "validation", "audit")
_MEASURED_SPLITS: tuple[Split, ...] = (
    *_EVALUATION_SPLITS,
    "retention",
    "dev_prompts",
    "dev",
)
_TAUGHT_SPLITS: tuple[Split, ...] = ("train", "unlabelled")
_REMEDIES = {
    "train": (
        "give a source with answers split: train, or raise data.fractions.train or a task's "
        "`labelled`; a model that learns from its own samples alone needs select.labelled_share: 0 "
        "and train.first.steps: 0"
    ),
    "unlabelled": (
        "give a source split: unlabelled, raise data.fractions.unlabelled, or give training rows "
        "with prompts"
    ),
    "validation": "give a source split: validation, raise data.fractions.validation, or add rows",
    "test": "give a source split: test, raise data.fractions.test, or add rows",
}
"""Split that may not be empty → advice."""
_MAX_REJECTED_CHARACTERS = 500


@dataclass
class Splits:
    """The rows that `prepare` writes, one field per file."""

    train: list[TrainingRow] = field(default_factory=list)
    dev: list[TrainingRow] = field(default_factory=list)
    dev_prompts: list[Prompt] = field(default_factory=list)
    """Questions of the dev rows that can be asked, and a ladder's own."""
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
    examples: Iterable[Assigned | Dropped],
    fractions: Fractions,
    seed: int,
    contamination: Literal["exact", "overlap"] = "exact",
    earlier: EarlierPrompts = NO_EARLIER_PROMPTS,
    may_be_empty: Collection[str] = (),
) -> Splits:
    """Assign every example to one split and drop, with a reason, what may not be in it.

    If there are no unlabelled prompts, the questions of the train split serve. No prompt that an
    earlier campaign of the base measured on is taught, and none that it taught is measured on.

    Args:
        examples: Examples with their splits, and rows that were dropped already.
        fractions: Shares of the splits, for examples without one.
        seed: Another seed divides otherwise.
        contamination: What makes training material contaminated, see `select.contamination`.
        earlier: Prompts of earlier campaigns.
        may_be_empty: Splits that the campaign does without.

    Raises:
        UserError: There is nothing to train on, to sample from or to measure on.
    """
    splits = Splits()
    meant_for: ExamplesOfSplits = {name: [] for name in CLAIM_ORDER}
    undivided: list[Example] = []
    for item in examples:
        if isinstance(item, Dropped):
            splits.rejected.append(item)
            continue
        target, example = item
        if target == "auto":
            undivided.append(example)
        else:
            _assign(example, target, meant_for, splits.rejected, earlier)
    # Last: what other sources give decides how a labelled file is divided.
    present = frozenset(name for name, members in meant_for.items() if members)
    division = divide(undivided, fractions, seed, present)
    for example, split in zip(undivided, division, strict=True):
        # Answers to a prompt are checked by its verifier; training needs none that accepts the row.
        if split == "unlabelled" and _problem_in(split, example):
            split = "train"
        _assign(example, split, meant_for, splits.rejected, earlier)
    members = _claim(meant_for, splits.rejected)
    _decontaminate(members, contamination == "overlap", splits.rejected)
    for name in CLAIM_ORDER:
        if name in _PROMPT_SPLITS:
            setattr(splits, name, [example.as_prompt() for example in members[name]])
        else:
            setattr(
                splits, name, [example.as_training_row() for example in members[name]]
            )
    # The dev split has both forms of a row: its loss stops a training, its answer steers the plan.
    splits.dev_prompts += _questions(
        [example for example in members["dev"] if example.is_asked]
    )
    # Without prompts of their own, models answer the questions that they were trained on.
    if not splits.unlabelled:
        splits.unlabelled = _questions(members["train"])
    _assert_disjoint(members)
    _require_rows(splits, may_be_empty)
    return splits


def _assign(
    example: Example,
    split: Split,
    meant_for: ExamplesOfSplits,
    rejected: list[Dropped],
    earlier: EarlierPrompts,
) -> None:
    if problem := _problem_in(split, example):
        rejected.append(dropped("unverifiable", problem, example))
    elif reason := earlier.problem_in(split, example.identity):
        detail = (
            f"an earlier campaign of the base used its prompt, this row was for {split}"
        )
        rejected.append(dropped(reason, detail, example))
    else:
        meant_for[split].append(example)


def _problem_in(split: Split, example: Example) -> str:
    """Return the reason why an example cannot be in a split, or "" if it can.

    Answers to a prompt are checked by its verifier, so that must accept the reference answer.
    """
    if split not in _PROMPT_SPLITS:
        return ""
    if example.block is not None:
        return ""
    if not example.prompt:
        return "raw text beside questions asks nothing; give it split train, dev or retention"
    if problem := prompt_problem(example.as_prompt()):
        return f"verifier {example.verifier}: {problem}"
    if example.completion is None:
        return ""
    if example.verifier == "regex":
        # The completion is a pattern here, and no pattern matches itself for sure.
        problem = pattern_problem(example.completion)
        return f"pattern: {problem}" if problem else ""
    verdict = verdict_of(example.as_prompt(), example.completion)
    if verdict.score >= example.check.threshold:
        return ""
    because = f" ({verdict.reason})" if verdict.reason else ""
    return f"verifier {example.verifier} refuses the reference answer{because}"


def _claim(meant_for: ExamplesOfSplits, rejected: list[Dropped]) -> ExamplesOfSplits:
    """Return split → its examples: each prompt in one split, each row once.

    The other examples are appended to `rejected`.
    """
    owners: dict[str, Split] = {}
    for name in CLAIM_ORDER:
        for example in meant_for[name]:
            owners.setdefault(example.identity, name)
    members: ExamplesOfSplits = {}
    for name in CLAIM_ORDER:
        present: set[tuple[str, str | None]] = set()
        members[name] = []
        for example in meant_for[name]:
            owner = owners[example.identity]
            # A question may be taught with several answers; it is asked once.
            answer = None if name in _PROMPT_SPLITS else example.completion
            key = (example.identity, answer)
            if owner != name:
                reason = (
                    "in_evaluation" if owner in _EVALUATION_SPLITS else f"in_{owner}"
                )
                detail = f"its prompt is in {owner}, this row was for {name}"
                rejected.append(dropped(reason, detail, example))
            elif key in present:
                rejected.append(dropped("duplicate", f"twice in {name}", example))
            else:
                present.add(key)
                members[name].append(example)
    return members


def _decontaminate(
    members: ExamplesOfSplits, parts: bool, rejected: list[Dropped]
) -> None:
    """Remove what may be trained on and holds an evaluation item; append it to `rejected`."""
    items = [
        (example.as_question(), example.stated_answer)
        for name in _MEASURED_SPLITS
        for example in members[name]
    ]
    index = Overlap(items, parts=parts)
    for name in _TAUGHT_SPLITS:
        clean = []
        for example in members[name]:
            reason = _contamination_of(example, index)
            if reason:
                rejected.append(dropped("contaminated", reason, example))
            else:
                clean.append(example)
        members[name] = clean


def _contamination_of(example: Example, index: Overlap) -> str:
    """Return the reason not to train on an example, empty if there is none."""
    reason = index.of_prompt(example.prompt) if example.prompt else ""
    if not reason and example.completion is not None:
        reason = index.of_text(example.completion, is_answer=bool(example.prompt))
    # The text of a conversation is all of its turns; one of them may be an evaluation prompt.
    turns = example.conversation.messages if example.conversation is not None else ()
    for message in turns:
        if not reason and message["role"] == "user":
            reason = index.of_prompt(spoken(message))
    return reason


def _questions(labelled: list[Example]) -> list[Prompt]:
    """Return the prompts of labelled rows that can be asked, each once.

    Documents and rows that their verifier cannot check ask nothing; a block of raw text asks to be
    continued.
    """
    # Of rows with one prompt the first serves, as for all splits; prompts stay in the order of
    # their last rows.
    by_identity = {
        example.identity: example
        for example in reversed(labelled)
        if (example.prompt or example.block) and not _problem_in("unlabelled", example)
    }
    return [example.as_prompt() for example in reversed(by_identity.values())]


def _assert_disjoint(members: ExamplesOfSplits) -> None:
    identities: dict[Split, set[str]] = {}
    for name, examples in members.items():
        identities[name] = {example.identity for example in examples}
    for first, second in combinations(CLAIM_ORDER, 2):
        shared = identities[first] & identities[second]
        assert not shared, (
            f"splits {first} and {second} share {len(shared)} prompts: {min(shared)}"
        )


def _require_rows(splits: Splits, may_be_empty: Collection[str]) -> None:
    """Raise UserError if a split is empty that a campaign needs."""
    # With the counts of rejected rows: most often they are the reason.
    for split, remedy in _REMEDIES.items():
        if getattr(splits, split) or split in may_be_empty:
            continue
        reasons = [
            f"{reason} {count}" for reason, count in splits.rejected_counts.items()
        ]
        rejected = f" (rejected rows: {', '.join(reasons)})" if reasons else ""
        raise UserError(f"data: split {split} is empty; {remedy}{rejected}")


def dropped(reason: str, detail: str, example: Example) -> Dropped:
    """Return an example that no split holds, with the reason."""
    # An excerpt, with its file and line: the whole row is in the source.
    origin = ", ".join(str(value) for value in example.provenance.values())
    completion = example.completion or ""
    row = {
        "prompt": example.prompt[:_MAX_REJECTED_CHARACTERS],
        "completion": completion[:_MAX_REJECTED_CHARACTERS],
    }
    return Dropped(reason=reason, detail=f"{origin}: {detail}", row=row)
