"""What the prompt's own verifier says of an answer, and a function of the user's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from components.errors import UserError
from components.select.filter_settings import Rules
from components.select.scored_samples import (
    Block,
    Filter,
    Outcome,
    Remaining,
    ScoredSample,
    by_prompt,
    split,
)
from components.verifiers import verify


def filter_of(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops what the prompt's verifier refuses, and notes the prompt's pass rate (hinted answers
    have none); none if the recipe goes without labels. The reference is read through the verifier
    alone: what is kept is always the model's own text."""
    if not rules.section.verifier:
        return None

    def apply(block: Block) -> Outcome:
        kept, dropped = [], []
        for own in by_prompt(block):
            right, wrong = _verified(own)
            kept += (
                right
                if own[0].hinted
                else [replace(one, pass_rate=len(right) / one.num_samples) for one in right]
            )
            dropped += wrong
        return kept, dropped

    return apply


def by_function(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops what the recipe's `verifier_function` refuses."""
    name = rules.section.verifier_function
    if not name:
        return None
    function = _named(name)

    def refusal(one: ScoredSample) -> str:
        return (
            ""
            if function(one.prompt.text, one.text, dict(one.prompt.reference))
            else f"{name} refused it"
        )

    return lambda block: split(block, refusal, "function")


def _verified(own: list[ScoredSample]) -> Outcome:
    """The verdict on a prompt's answers; equal ones are checked once."""
    verdicts: dict[str, bool] = {}

    def refusal(one: ScoredSample) -> str:
        if one.text not in verdicts:
            verdicts[one.text] = verify(one.prompt, one.text)
        return "" if verdicts[one.text] else f"{one.prompt.verifier} refused {one.answer[:200]!r}"

    return split(own, refusal, "verifier")


def _named(name: str) -> Callable[[str, str, dict[str, Any]], bool]:
    """The function behind a dotted name of the recipe. What it raises later is a bug of its own,
    with its traceback."""
    module, _, attribute = name.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise UserError(
            f"select.verifier_function {name}: {error}; install it where this step runs"
        ) from None
    if not callable(function):
        raise UserError(
            f"select.verifier_function {name}: module {module} has no function {attribute!r}"
        )
    found: Callable[[str, str, dict[str, Any]], bool] = function
    return found
