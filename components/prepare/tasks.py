"""Procedural tasks: questions made by a program, with their right answers.

Built-in tasks have a length: `4711=` → `1174` (reverse), `(4711)=` → `4711` (copy), `12+34=` → `64`
(addition of two numbers of equal length, the digits of the sum reversed as in 2502.01612). All
puzzles of one source are distinct, so its splits are disjoint.
"""

from __future__ import annotations

import difflib
import json
import random
from collections.abc import Iterator
from typing import Any

from components.canonical import derived_seed
from components.contracts.recipe import Ladder, TaskSource
from components.contracts.rows import Dropped, Split, prompt_id
from components.errors import UserError
from components.prepare.examples import Example
from components.verifiers import BUILTIN_TASKS, MAX_DIGITS, scorer_is_safe, verify

Assigned = tuple[Split, Example]

_LISTED_SPACE = 100_000
"""Up to so many puzzles of one length are listed and shuffled; of more, distinct ones are drawn."""
_DRAWS_PER_PUZZLE = 4
"""How many draws a reasoning-gym task may take for each distinct puzzle asked for."""


def make_examples(source: TaskSource, seed: int) -> Iterator[Assigned | Dropped]:
    """All puzzles of one task source, each with the split it is meant for; Dropped: a puzzle that
    could not be used.

    On a ladder no answer longer than `labelled[1]` is handed to train or dev; unlabelled
    prompts come for each climbing length, validation and test spread over `labelled[1]..climb[1]`.
    A length with few problems gives fewer. Raises UserError for an unknown task or settings that
    the task refuses.
    """
    if source.task.startswith("reasoning_gym/"):
        yield from _gym_examples(source, seed)
    elif source.ladder is not None:
        if source.ladder.climb[1] > MAX_DIGITS:
            raise UserError(
                f"task {source.task}: ladder.climb ends at {source.ladder.climb[1]}; the longest is {MAX_DIGITS}"
            )
        yield from _ladder_examples(source, source.ladder, seed)


def _ladder_examples(source: TaskSource, ladder: Ladder, seed: int) -> Iterator[Assigned]:
    labelled = range(ladder.labelled[0], ladder.labelled[1] + 1)
    climb = range(ladder.climb[0], ladder.climb[1] + 1)
    evaluated = range(ladder.labelled[1], ladder.climb[1] + 1)
    wanted: list[tuple[Split, dict[int, int]]] = [
        ("vault", _spread(source.vault, evaluated)),
        ("test", _spread(source.test, evaluated)),
        ("validation", _spread(source.validation, evaluated)),
        ("dev", _spread(source.dev, labelled)),
        ("train", _spread(source.labelled, labelled)),
        ("audit", dict.fromkeys(climb, source.audit)),
        ("unlabelled", dict.fromkeys(climb, source.unlabelled)),
    ]
    for length in range(labelled.start, climb.stop):
        space = BUILTIN_TASKS[source.task].count(length)
        puzzles = _distinct(space, derived_seed("task", seed, source.task, length))
        for split, counts in wanted:
            count = counts.get(length, 0)
            if split in ("vault", "test", "validation", "dev"):
                # Short lengths have few problems (ten strings of one digit): most are for training.
                count = min(count, max(1, space // 10))
            for _ in range(count):
                number = next(puzzles, None)
                if number is None:
                    break
                yield split, _builtin_example(source.task, length, number)


def _spread(total: int, lengths: range) -> dict[int, int]:
    """`total` over the lengths as evenly as possible; longer ones get the remainder."""
    share, rest = divmod(total, len(lengths))
    return {length: share + (place >= len(lengths) - rest) for place, length in enumerate(lengths)}


def _distinct(space: int, seed: int) -> Iterator[int]:
    """Different numbers below `space` in random order, until all have been."""
    draw = random.Random(seed)
    if space <= _LISTED_SPACE:
        yield from draw.sample(range(space), space)
        return
    seen: set[int] = set()
    while len(seen) < space:
        number = draw.randrange(space)
        if number not in seen:
            seen.add(number)
            yield number


def _builtin_example(name: str, length: int, number: int) -> Example:
    task = BUILTIN_TASKS[name]
    prompt = task.prompt(length, number)
    return Example(
        prompt=prompt,
        completion=task.answer(prompt),
        verifier=f"task/{name}",
        reference={},
        tags={"task": name, "length": str(length)},
        provenance={"task": name},
    )


def _gym_examples(source: TaskSource, seed: int) -> Iterator[Assigned | Dropped]:
    splits: list[tuple[Split, int]] = [
        ("vault", source.vault),
        ("test", source.test),
        ("validation", source.validation),
        ("dev", source.dev),
        ("train", source.labelled),
        ("audit", source.audit),
        ("unlabelled", source.unlabelled),
    ]
    total = sum(count for _, count in splits)
    puzzles: list[Example] = []
    for item in _gym_puzzles(source, total, seed):
        if isinstance(item, Dropped):
            yield item
        else:
            puzzles.append(item)
    if not puzzles:
        raise UserError(
            f"task {source.task}: its scorer accepts none of its own answers; choose another task"
        )
    # With fewer distinct puzzles than asked for, every split gets its share of what there is.
    begin = asked = 0
    for split, count in splits:
        asked += count
        end = asked * len(puzzles) // total
        for puzzle in puzzles[begin:end]:
            yield split, puzzle
        begin = end


def _gym_puzzles(source: TaskSource, wanted: int, seed: int) -> Iterator[Example | Dropped]:
    """Up to `wanted` distinct puzzles whose own answer the scorer accepts, and the refused ones
    with the reason."""
    name = source.task.removeprefix("reasoning_gym/")
    draws = wanted * _DRAWS_PER_PUZZLE
    dataset = _gym_dataset(
        name, source.config, derived_seed("task", seed, source.task) % 2**31, draws
    )
    seen: set[str] = set()
    for index in range(draws):
        if len(seen) >= wanted:
            return
        try:
            entry = dataset[index]
        except (IndexError, ValueError, RuntimeError, AssertionError) as error:
            yield Dropped(
                reason="not_made", detail=f"{source.task}, puzzle {index}: {error}", row={}
            )
            continue
        example = _gym_example(name, source.config, entry)
        refusal = (
            "duplicate" if example is not None and example.identity in seen else _refusal(example)
        )
        if example is None or refusal:
            question = str(entry["question"])[:500]
            yield Dropped(
                reason=refusal, detail=f"{source.task}, puzzle {index}", row={"text": question}
            )
            continue
        seen.add(example.identity)
        yield example


def _refusal(example: Example | None) -> str:
    """Why a puzzle cannot be used: it is not JSON, or its scorer refuses its own answer read back
    from it."""
    if example is None:
        return "not_json"
    return "" if verify(example.as_prompt(), example.completion or "") else "unverifiable"


def _gym_example(name: str, config: dict[str, Any], entry: dict[str, Any]) -> Example | None:
    try:
        stored = json.loads(json.dumps(entry, allow_nan=False))
    except (TypeError, ValueError):
        return None
    question = str(entry["question"])
    return Example(
        prompt=question,
        completion=str(entry["answer"]),
        verifier="reasoning_gym",
        reference={"name": name, "config": config, "entry": stored},
        tags={"task": name},
        provenance={"task": f"reasoning_gym/{name}", "puzzle": prompt_id(question)},
    )


def _gym_dataset(name: str, config: dict[str, Any], seed: int, size: int) -> Any:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.0)
        raise UserError(
            f"task reasoning_gym/{name}: no such task"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    if not scorer_is_safe(name):
        raise UserError(
            f"task reasoning_gym/{name}: its scorer runs the model's answer as code; choose another task"
        )
    if own := {"seed", "size"} & config.keys():
        raise UserError(
            f"task reasoning_gym/{name}: config may not set {', '.join(sorted(own))}; the recipe's seed and counts do"
        )
    try:
        return reasoning_gym.create_dataset(name, seed=seed, size=size, **config)
    except (AssertionError, TypeError, ValueError, KeyError, AttributeError) as error:
        settings = ", ".join(
            sorted(DATASETS[name][1].__dataclass_fields__.keys() - {"seed", "size"})
        )
        raise UserError(
            f"task reasoning_gym/{name}: config refused ({error}); its settings: {settings}"
        ) from None
