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
from dataclasses import replace
from itertools import islice
from typing import Protocol

from components.canonical import JsonObject, derived_seed
from components.contracts.recipe import Ladder, TaskSource
from components.contracts.rows import Check, Dropped, Split, prompt_id
from components.contracts.verifier_names import own_name
from components.errors import UserError
from components.prepare.division import handed_out
from components.prepare.examples import Example
from components.prepare.own_tasks import own_examples
from components.verifiers import (
    BUILTIN_TASKS,
    MAX_DIGITS,
    require_gym,
    scorer_is_safe,
    verify,
)

Assigned = tuple[Split, Example]

_LISTED_SPACE = 100_000
"""Up to so many puzzles of one length are listed and shuffled; of more, distinct ones are drawn."""
_DRAWS_PER_PUZZLE = 4
"""Draws that a reasoning-gym task may take for each distinct puzzle that is wanted."""
_HELD_OUT: tuple[Split, ...] = ("vault", "test", "validation", "dev_prompts", "dev")


def make_examples(
    source: TaskSource, seed: int, code: str = ""
) -> Iterator[Assigned | Dropped]:
    """Yield the puzzles of one task source, each with its split, or Dropped for an unusable one.

    On a ladder no answer longer than `labelled[1]` is handed to train or dev; unlabelled
    prompts come for each climbing length, validation, test and dev prompts spread over
    `labelled[1]..climb[1]`.
    A length with few problems gives fewer.

    Args:
        source: names the task and the numbers of puzzles.
        seed: seed of the puzzles.
        code: digest of the bundle with a task of the user's.

    Raises:
        UserError: the task is unknown, refuses its settings, or makes no puzzle.
    """
    if source.task.startswith("reasoning_gym/"):
        yield from _gym_examples(source, seed)
    elif source.ladder is not None and own_name(source.task) is not None:
        counts = _ladder_counts(source, source.ladder)
        own = own_examples(source.task, counts, seed, Check(code=code))
        yield from _without_dev_questions(own)
    elif source.ladder is not None:
        longest = source.ladder.climb[1]
        if longest > MAX_DIGITS:
            raise UserError(
                f"task {source.task}: ladder.climb ends at {longest}; the longest is {MAX_DIGITS}"
            )
        yield from _without_dev_questions(_ladder_examples(source, source.ladder, seed))


def _ladder_examples(
    source: TaskSource, ladder: Ladder, seed: int
) -> Iterator[Assigned]:
    shortest = ladder.labelled[0]
    longest = ladder.climb[1]
    counts = _ladder_counts(source, ladder)
    for length in _lengths(shortest, longest):
        space = BUILTIN_TASKS[source.task].count(length)
        numbers = _distinct(space, derived_seed("task", seed, source.task, length))
        for split, counts_by_length in counts.items():
            count = counts_by_length.get(length, 0)
            if split in _HELD_OUT:
                # Short lengths have few problems (ten strings of one digit): most are for training.
                count = min(count, max(1, space // 10))
            for number in islice(numbers, count):
                yield split, _builtin_example(source.task, length, number)


def _without_dev_questions(
    items: Iterator[Assigned | Dropped],
) -> Iterator[Assigned | Dropped]:
    """Yield a ladder's puzzles; its dev rows are of short lengths, and are not asked."""
    for item in items:
        if isinstance(item, Dropped) or item[0] != "dev":
            yield item
        else:
            yield "dev", replace(item[1], is_asked=False)


def _ladder_counts(source: TaskSource, ladder: Ladder) -> dict[Split, dict[int, int]]:
    """Return split → length → puzzles, in the order in which splits take their puzzles."""
    labelled = _lengths(*ladder.labelled)
    climb = _lengths(*ladder.climb)
    # Measured from the longest labelled length on: a goal is about lengths that nobody labelled.
    evaluated = _lengths(ladder.labelled[1], ladder.climb[1])
    return {
        "vault": _spread(source.vault, evaluated),
        "test": _spread(source.test, evaluated),
        "validation": _spread(source.validation, evaluated),
        "dev_prompts": _spread(source.num_dev, evaluated),
        "dev": _spread(source.num_dev, labelled),
        "train": _spread(source.labelled, labelled),
        "audit": dict.fromkeys(climb, source.audit),
        "unlabelled": dict.fromkeys(climb, source.unlabelled),
    }


def _lengths(shortest: int, longest: int) -> range:
    """Return the lengths from the shortest to the longest, both included."""
    return range(shortest, longest + 1)


def _spread(total: int, lengths: range) -> dict[int, int]:
    """Return length → share of `total`, as even as possible; longer ones get the remainder."""
    share, remainder = divmod(total, len(lengths))
    shares = dict.fromkeys(lengths, share)
    for length in lengths[len(lengths) - remainder :]:
        shares[length] += 1
    return shares


def _distinct(space: int, seed: int) -> Iterator[int]:
    """Yield every number below `space` once, in random order."""
    # A list of the whole space would take gigabytes from 9 digits on. In a space that large few
    # draws come twice.
    generator = random.Random(seed)
    if space <= _LISTED_SPACE:
        yield from generator.sample(range(space), space)
        return
    drawn: set[int] = set()
    while len(drawn) < space:
        number = generator.randrange(space)
        if number not in drawn:
            drawn.add(number)
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
    counts: dict[Split, int] = {
        "vault": source.vault,
        "test": source.test,
        "validation": source.validation,
        "dev": source.num_dev,
        "train": source.labelled,
        "audit": source.audit,
        "unlabelled": source.unlabelled,
    }
    puzzles: list[Example] = []
    for item in _gym_puzzles(source, sum(counts.values()), seed):
        if isinstance(item, Dropped):
            yield item
        else:
            puzzles.append(item)
    if not puzzles:
        raise UserError(
            f"task {source.task}: its scorer accepts none of its own answers; choose another task"
        )
    yield from handed_out(puzzles, counts)


def _gym_puzzles(
    source: TaskSource, num_wanted: int, seed: int
) -> Iterator[Example | Dropped]:
    """Yield up to `num_wanted` distinct puzzles, and the unusable ones with the reason."""
    name = source.task.removeprefix("reasoning_gym/")
    num_draws = num_wanted * _DRAWS_PER_PUZZLE
    # Some tasks hand the seed to numpy.random.seed, which takes 32 bits.
    task_seed = derived_seed("task", seed, source.task) % 2**31
    dataset = _gym_dataset(name, source.config, task_seed, num_draws)
    accepted_ids: set[str] = set()
    for index in range(num_draws):
        if len(accepted_ids) >= num_wanted:
            return
        location = f"{source.task}, puzzle {index}"
        # A puzzle is made when it is asked for; some settings make only a few of them impossible.
        try:
            entry = dataset[index]
        except (IndexError, ValueError, RuntimeError, AssertionError) as error:
            yield Dropped(reason="not_made", detail=f"{location}: {error}", row={})
            continue
        example = _gym_example(name, source.config, entry)
        if example is None:
            reason = "not_json"
        elif example.identity in accepted_ids:
            reason = "duplicate"
        elif not verify(example.as_prompt(), example.completion or ""):
            # The answer read back from JSON: a scorer may want the tuple that JSON made a list.
            reason = "unverifiable"
        else:
            accepted_ids.add(example.identity)
            yield example
            continue
        yield Dropped(
            reason=reason, detail=location, row={"text": str(entry["question"])[:500]}
        )


def _gym_example(name: str, config: JsonObject, entry: JsonObject) -> Example | None:
    """Return a puzzle as an example, or None if it cannot be written as JSON."""
    # Through JSON, because that is the form in which the scorer will read it back.
    try:
        stored_entry = json.loads(json.dumps(entry, allow_nan=False))
    except (TypeError, ValueError):
        return None
    question = str(entry["question"])
    return Example(
        prompt=question,
        completion=str(entry["answer"]),
        verifier="reasoning_gym",
        reference={"name": name, "config": config, "entry": stored_entry},
        tags={"task": name},
        provenance={"task": f"reasoning_gym/{name}", "puzzle": prompt_id(question)},
    )


class _Puzzles(Protocol):
    """A dataset of reasoning-gym, as far as it is used here."""

    def __getitem__(self, index: int) -> JsonObject:
        """Return a puzzle: `question`, `answer`, and what its scorer needs."""
        ...


def _gym_dataset(name: str, config: JsonObject, seed: int, size: int) -> _Puzzles:
    """Return a dataset of reasoning-gym. Raise UserError if the name or its settings are wrong."""
    require_gym()
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    task = f"task reasoning_gym/{name}"
    if name not in DATASETS:
        nearest = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.0)
        suggestion = f"; did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"{task}: no such task{suggestion}")
    if not scorer_is_safe(name):
        raise UserError(
            f"{task}: its scorer runs the model's answer as code; choose another task"
        )
    reserved = {"seed", "size"}
    if refused := reserved & config.keys():
        raise UserError(
            f"{task}: config may not set {', '.join(sorted(refused))}; the recipe's seed and "
            "counts do"
        )
    try:
        dataset: _Puzzles = reasoning_gym.create_dataset(
            name, seed=seed, size=size, **config
        )
    except (AssertionError, TypeError, ValueError, KeyError, AttributeError) as error:
        settings = DATASETS[name][1].__dataclass_fields__.keys() - reserved
        raise UserError(
            f"{task}: config refused ({error}); its settings: {', '.join(sorted(settings))}"
        ) from None
    return dataset
