"""Verdicts of the prompt's own verifier and of a function of the user's."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.contracts.rows import Dropped
from components.errors import UserError, one_line
from components.select.filter_settings import FilterSettings
from components.select.scored_samples import (
    Block,
    Filter,
    Outcome,
    Remaining,
    ScoredSample,
    by_prompt,
    split,
)
from components.verifiers import Room, Verdict, verdicts_of

_SHOWN_CHARACTERS = 80
_NOT_THE_USERS = ("<", importlib.__file__, str(Path(__file__).resolve().parents[2]))
"""Beginnings of the files of Python's import system, and of ours."""
Verdicts = dict[tuple[str, str], Verdict]
"""(prompt id, answer) → verdict."""
VerifierFunction = Callable[[str, str, dict[str, Any]], bool]
"""(prompt, answer, reference) → whether the answer is right; a function of the user's."""


def filter_of(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops answers which the prompt's verifier refuses.

    It notes the prompt's pass rate in the others; hinted answers have none. None if the recipe goes
    without labels. The reference is read through the verifier alone: the text of a row is always
    the model's own.
    """
    if not settings.section.verifier:
        return None

    def apply(block: Block) -> Outcome:
        passed: list[ScoredSample] = []
        dropped: list[Dropped] = []
        verdicts = _verdicts(block, settings.room)
        for group in by_prompt(block):
            right, wrong = _verified(group, verdicts)
            if not group[0].hinted:
                # Over all samples drawn, also those that an earlier filter dropped.
                pass_rate = len(right) / group[0].num_samples
                right = [replace(scored, pass_rate=pass_rate) for scored in right]
            passed += right
            dropped += wrong
        return passed, dropped

    return apply


def by_function(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops answers which the recipe's `verifier_function` refuses.

    None if the recipe names no function. Raises UserError if the function cannot be imported,
    raises, or returns no bool.
    """
    name = settings.section.verifier_function
    if not name:
        return None
    # Imported before the first sample is read: a wrong name ends the round at once.
    function = _imported(name)

    def refusal(scored: ScoredSample) -> str:
        # A copy: the function is not ours, and the prompt is used again.
        reference = dict(scored.prompt.reference)
        try:
            accepted = function(scored.prompt.text, scored.text, reference)
        except (Exception, SystemExit) as error:  # noqa: BLE001 — a user's function may raise anything.
            raise UserError(
                f"select.verifier_function {name} raised {_problem(error)}; asked about sample "
                f"{scored.sample.index} of prompt {scored.prompt.id}, "
                f"{scored.prompt.text[:_SHOWN_CHARACTERS]!r}: mend it, or let it return False"
            ) from None
        # NumPy's bools say what they are.
        accepted = accepted.item() if hasattr(accepted, "item") else accepted
        if not isinstance(accepted, bool):
            # A coroutine, NaN and "no" are all true to Python: everything would be accepted.
            raise UserError(
                f"select.verifier_function {name} returned {type(accepted).__name__}, not a bool: "
                "let it return True or False (an async function is never awaited)"
            )
        return "" if accepted else f"{name} refused it"

    return lambda block: split(block, refusal, "function")


def _verdicts(block: Block, room: Room) -> Verdicts:
    """Return the verdicts on the samples of a block; equal answers are checked once."""
    # Small models repeat themselves, and `math` may take seconds for one answer.
    asked = {
        (scored.prompt.id, scored.text): (scored.prompt, scored.text)
        for scored in block
    }
    return dict(zip(asked, verdicts_of(list(asked.values()), room), strict=True))


def _verified(group: Block, verdicts: Verdicts) -> Outcome:
    """Return the outcome for the answers to one prompt."""

    def refusal(scored: ScoredSample) -> str:
        verdict = verdicts[scored.prompt.id, scored.text]
        if verdict.score >= scored.prompt.check.threshold:
            return ""
        because = f": {verdict.reason}" if verdict.reason else ""
        return f"{scored.prompt.verifier} refused {scored.answer[:200]!r}{because}"

    return split(group, refusal, "verifier")


def _imported(name: str) -> VerifierFunction:
    """Return the function with a dotted name. Raise UserError if there is none."""
    module, _, attribute = name.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise UserError(
            f"select.verifier_function {name}: {error}; install it where this step runs"
        ) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 — so may its module.
        raise UserError(
            f"select.verifier_function {name}: {module} cannot be loaded: {_problem(error)}"
        ) from None
    if not callable(function):
        raise UserError(
            f"select.verifier_function {name}: module {module} has no function {attribute!r}"
        )
    verifier_function: VerifierFunction = function
    return verifier_function


def _problem(error: BaseException) -> str:
    """Return an exception of the user's code in one line, with the line of the file we called."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_NOT_THE_USERS)
    ]
    # Not the last frame: that may be in a library.
    lines = [frame.lineno for frame in frames if frame.filename == frames[0].filename]
    location = f" ({Path(frames[0].filename).name} line {lines[-1]})" if lines else ""
    # It copes with an exception whose own text raises.
    words = one_line("".join(traceback.format_exception_only(error)))
    return f"{words}{location}"
