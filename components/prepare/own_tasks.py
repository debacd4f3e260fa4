"""Puzzles of a task of the user's: a class with `make(difficulty, rng)` and `verify`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from components.canonical import derived_seed
from components.contracts.rows import Check, Dropped, Split, prompt_id
from components.errors import UserError
from components.prepare.division import handed_out
from components.prepare.examples import Example
from components.verifiers.own_checker import CheckerFailed, puzzle, tried

_DRAWS_PER_PUZZLE = 4
"""Draws that a task may take for each distinct puzzle that is wanted."""
_LEAST_DRAWS = 100
"""Draws at a difficulty with few puzzles, so that most of them are found."""


def own_examples(
    task: str, counts: Mapping[Split, Mapping[int, int]], seed: int, check: Check
) -> Iterator[tuple[Split, Example] | Dropped]:
    """Yield distinct puzzles with their splits, and Dropped for one that `verify` refuses.

    With fewer distinct puzzles of a difficulty than wanted, every split gets its share.

    Args:
        task: Name of the class, as the recipe has it.
        counts: Split → difficulty → puzzles.
        seed: Seed of the puzzles.
        check: Settings of the verifier, with the digest of its code.

    Raises:
        UserError: The class cannot be imported, raises, or makes no usable puzzle.
    """
    difficulties = sorted(
        {difficulty for wanted in counts.values() for difficulty in wanted}
    )
    for difficulty in difficulties:
        wanted = {
            split: numbers.get(difficulty, 0) for split, numbers in counts.items()
        }
        total = sum(wanted.values())
        examples: list[Example] = []
        for item in _drawn(task, difficulty, total, seed, check):
            if isinstance(item, Dropped):
                yield item
            else:
                examples.append(item)
        if total and not examples:
            raise UserError(
                f"data.tasks {task}: verify accepts none of the answers that make gives at "
                f"difficulty {difficulty}"
            )
        yield from handed_out(examples, wanted)


def _drawn(
    task: str, difficulty: int, num_wanted: int, seed: int, check: Check
) -> Iterator[Example | Dropped]:
    present: set[str] = set()
    for draw in range(max(_LEAST_DRAWS, num_wanted * _DRAWS_PER_PUZZLE)):
        if len(present) >= num_wanted:
            return
        # Each puzzle has a seed of its own: no other count changes it.
        example = _example(
            task, difficulty, derived_seed("task", seed, task, difficulty, draw), check
        )
        if example.identity in present:
            continue
        reason = _refusal(example)
        if reason:
            row = {"text": example.prompt[:500]}
            yield Dropped(reason="unverifiable", detail=f"{task}: {reason}", row=row)
            continue
        present.add(example.identity)
        yield example


def _example(task: str, difficulty: int, seed: int, check: Check) -> Example:
    try:
        made = puzzle(task, check, difficulty, seed)
    except CheckerFailed as error:
        raise UserError(
            f"data.tasks {error}; asked for difficulty {difficulty}"
        ) from None
    name = task.rpartition(":")[2]
    return Example(
        prompt=made.text,
        completion=made.answer,
        verifier=task,
        reference={**made.reference, "answer": made.answer},
        check=check,
        # The ladder goes by this tag, whatever the difficulty is.
        tags={"task": name, "length": str(difficulty)},
        provenance={"task": task, "puzzle": prompt_id(made.text)},
    )


def _refusal(example: Example) -> str:
    """Return why `verify` does not take the answer of `make`, "" if it does."""
    try:
        verdict = tried(example.as_prompt(), example.completion or "")
    except CheckerFailed as error:
        raise UserError(
            f"data.tasks {error}; asked about the prompt {example.prompt[:80]!r}"
        ) from None
    if verdict.score >= example.check.threshold:
        return ""
    return f"verify gives the answer of make the score {verdict.score:g} {verdict.reason}".strip()
