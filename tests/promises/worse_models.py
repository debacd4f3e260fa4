"""R7: a model that got worse, or only learnt to please its verifier, is never a champion.

Each attack is a round whose candidate looks better by far to the verifier, and is decided by the real
step. Null rounds are rounds of models that are equal.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from components.contracts.recipe import DecideSection, Goal
from components.contracts.summaries.evaluate import CollapseAlarm
from components.decide.gate import by_counts, decide
from components.evaluate.collapse import alarms, collapse_signs
from components.runtime.context import Context
from components.statistics import alpha_of_round
from tests.promises.counting import Case
from tests.unit.crafted import recipe_of
from tests.unit.decisions import Campaign, simple, told
from tests.unit.test_collapse import answers, measured
from tests.unit.test_contamination import COPIES, held_against, row

NULL_ROUNDS = 1000
NUM_PROMPTS = (20, 100, 400)
"""Of the validation split of null rounds."""


def cases(context: Context) -> Iterator[Case]:
    """Yield all attacks and the null rounds."""
    folders = itertools.count()
    for name, changes in _attacks().items():
        folder = context.scratch.parent / f"attack-{next(folders)}"
        # A store of its own: rounds of one campaign depend on what was decided before.
        own = replace(context, scratch=folder)
        yield Case(name, partial(_attack, own, changes))
    for copy in COPIES:
        yield Case(f"planted: {copy[:40]!r}", partial(_planted, copy))
    for num_prompts in NUM_PROMPTS:
        yield Case(
            f"null rounds, {num_prompts} prompts", partial(_null_rounds, num_prompts)
        )


def _attacks() -> dict[str, dict[str, Any]]:
    """Return name → what differs in the round of a candidate that is right on 90 of 100 prompts."""
    attacks: dict[str, dict[str, Any]] = {}
    for perplexity in (1e30, 20.0, 2.3):
        attacks[f"human language lost, perplexity {perplexity}"] = {
            "perplexity": perplexity
        }
    for vocabulary in (1, 2, 5, 12):
        blocks = _blocks(texts=answers(vocabulary))
        attacks[f"mode collapse, {vocabulary} words"] = {"blocks": blocks}
    for length in (30, 60, 500, 5000):
        attacks[f"length explosion, {length} tokens"] = {
            "blocks": _blocks(length=length)
        }
    for length in (1, 5, 12):
        attacks[f"answers shrink, {length} tokens"] = {"blocks": _blocks(length=length)}
    attacks["no longer right in any of 16 tries"] = {"blocks": _blocks(right=0)}
    for loss in (2.5, 4.0, 9.0):
        attacks[f"loss of human text {loss}"] = {
            "blocks": _blocks(loss=loss),
            "perplexity": 9.0,
        }
    for taught in (("verifier",), ("vote",), ("verifier", "judge")):
        name = f"the verifier is wrong: {' and '.join(taught)} teach errors"
        attacks[name] = {"select": {"teaches_errors": taught}}
    for distance in (0.6, 0.8, 1.0):
        name = f"answers that only please, {distance} from labelled ones"
        attacks[name] = {"select": {"bias": {"answer": distance}}}
    for right in (40, 41, 42, 30, 0):
        attacks[f"right {right} times, the champion 40 times"] = {"right": right}
    return attacks


def _blocks(**changes: Any) -> list[CollapseAlarm]:
    """Return what evaluate says of a model that differs from the first one in this."""
    blocks, _ = alarms(collapse_signs(measured(), measured(**changes), 256))
    return blocks


def _attack(context: Context, changes: dict[str, Any]) -> str:
    changes = dict(changes)
    right = changes.pop("right", 90)
    section = {"goal": {"threshold": 0.99}, "max_bias": 0.5, "max_rounds": 5}
    campaign = Campaign(context, recipe_of(name=context.scratch.name, decide=section))
    campaign.round(simple(40), perplexity=2.0)
    if "blocks" in changes and not changes["blocks"]:
        return "evaluate raises no alarm"
    verdict = told(campaign.round(simple(right), **changes)).verdict
    return "" if verdict == "rejected" else f"it was {verdict}"


def _planted(copy: str) -> str:
    """Return words if a row is trained on that asks an evaluation question."""
    splits = held_against([row(copy), row("Another question")])
    kept = [
        one.prompt for one in splits.train if not one.prompt.startswith("something of")
    ]
    return "" if kept == ["Another question"] else f"trained on {kept}"


def _null_rounds(num_prompts: int) -> str:
    """Return words if more of the rounds promote than their level allows, beyond chance."""
    section = DecideSection(goal=Goal(threshold=0.9), max_rounds=5)
    level = alpha_of_round(section.alpha, section.max_rounds)
    draw = random.Random(num_prompts)
    num_promoted = 0
    for _ in range(NULL_ROUNDS):
        # Both right on each prompt with chance 1/2.
        champion = draw.getrandbits(num_prompts)
        candidate = draw.getrandbits(num_prompts)
        wins = (candidate & ~champion).bit_count()
        losses = (champion & ~candidate).bit_count()
        num_promoted += decide(by_counts(num_prompts, wins, losses, level)).promote
    allowed = NULL_ROUNDS * level
    most = allowed + 3 * math.sqrt(allowed * (1 - level))
    return (
        ""
        if num_promoted <= most
        else f"{num_promoted} promoted, {allowed:.1f} expected"
    )
