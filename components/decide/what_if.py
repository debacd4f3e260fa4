"""What decide would have said of a campaign's finished rounds under other settings. Reads receipts,
writes nothing.

A round is decided against the model that would have been champion by then, with the results that
are stored. What was not carried out cannot be known: if a verdict changes, later rounds would have
begun from another model; that is said.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from components.contracts.recipe import DecideSection
from components.contracts.state import RoundRecord, StopReason, Verdict
from components.contracts.summaries import EvaluateSummary, SelectSummary
from components.decide.gate import compare, decide
from components.decide.step import (
    Measured,
    alarms_against,
    champion_of,
    minutes_spent,
    promotions_in_a_row,
    stop_reason,
)
from components.errors import UserError, one_line
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.entrypoints import step_context
from components.runtime.receipts import read_receipt, read_summary

WIDTH = 78
OVERRIDES = {
    "threshold": (float, "decide.goal.threshold: validation accuracy to reach"),
    "slice": (str, "decide.goal.slice, for example length=12; empty: all prompts"),
    "alpha": (float, "decide.alpha: false promotions allowed per campaign"),
    "max_rounds": (int, "decide.max_rounds: alpha is divided among them"),
    "patience": (int, "decide.patience: rounds in a row without a promotion"),
    "max_perplexity_ratio": (float, "decide.max_perplexity_ratio: on human text, against round 0"),
    "retention_margin": (float, "decide.retention_margin: token accuracy that may be lost"),
    "family": (str, "decide.family: tag of families of prompts; empty: none"),
}
"""Option → (type, what it is)."""


@dataclass(frozen=True)
class ReplayedRound:
    """One round under other settings."""

    round: int
    verdict: str
    """What decide said."""
    would_be: str
    """What it would have said."""
    why: str
    accuracy: float
    """Of the candidate, over the goal's slice."""
    stop: StopReason | None
    """Why the campaign would have ended after this round."""


@dataclass(frozen=True)
class Answer:
    """A campaign under other settings."""

    changed: dict[str, Any]
    """Settings that differ from the recipe's."""
    rounds: tuple[ReplayedRound, ...]
    champion_round: int | None
    would_be_champion_round: int
    diverges_after: int | None
    """The first round with another verdict: rounds after it began from a model that would not have
    been champion."""


def what_if(context: Context, state: str, overrides: dict[str, Any]) -> Answer:
    """Decide the finished rounds of a campaign again. Raises UserError for a setting that cannot
    be, or a state without finished rounds."""
    campaign = load_campaign(context, state)
    history = campaign.state.history
    if not history:
        raise UserError(f"{state}: no round is finished, so there is nothing to decide again")
    section = _section(campaign.written.decide, overrides)
    first = Measured.of(context, read_receipt(context, history[0].receipts["evaluate"]))
    best, best_round, waited, rounds = first, 0, 0, list[ReplayedRound]()
    diverges: int | None = None
    replayed: tuple[RoundRecord, ...] = ()
    for record in history:
        verdict: Verdict = "first"
        why, blocked, candidate = record.why, False, first
        if record.verdict != "first":
            candidate, verdict, why, blocked = _decide_again(
                context,
                record,
                best,
                best_round,
                history,
                first,
                section,
                diverges,
                promotions_in_a_row(replayed),
            )
            waited = 0 if verdict == "promoted" else waited + 1
            best, best_round = (
                (candidate, record.round) if verdict == "promoted" else (best, best_round)
            )
        if verdict != record.verdict and diverges is None:
            diverges = record.round
        replayed = (*replayed, record.model_copy(update={"verdict": verdict, "blocked": blocked}))
        stop = _stop(context, campaign, section, best, replayed, waited)
        accuracy = candidate.scores.accuracy(section.goal.slice)
        rounds.append(ReplayedRound(record.round, record.verdict, verdict, why, accuracy, stop))
        if stop is not None:
            break
    changed = {name: value for name, value in overrides.items() if value is not None}
    return Answer(changed, tuple(rounds), campaign.state.champion_round, best_round, diverges)


def _section(section: DecideSection, overrides: dict[str, Any]) -> DecideSection:
    given = {name: value for name, value in overrides.items() if value is not None}
    goal = {name: given.pop(name) for name in ("threshold", "slice") if name in given}
    document = section.model_dump(mode="json")
    try:
        return DecideSection.model_validate(
            {**document, **given, "goal": {**document["goal"], **goal}}
        )
    except ValueError as error:
        raise UserError(f"what-if: {one_line(error, 300)}") from None


def _decide_again(
    context: Context,
    record: RoundRecord,
    best: Measured,
    best_round: int,
    history: tuple[RoundRecord, ...],
    first: Measured,
    section: DecideSection,
    diverges: int | None,
    promotions: int,
) -> tuple[Measured, Verdict, str, bool]:
    """(the candidate, verdict, why, whether an alarm blocked it)."""
    evaluation = read_receipt(context, record.receipts["evaluate"])
    candidate = Measured.of(context, evaluation)
    selection = read_summary(read_receipt(context, record.receipts["select"]), SelectSummary)
    champion = best
    if diverges is None:  # as it was: what was measured of the champion beside the candidate
        before = read_receipt(
            context, next(one for one in history if one.round == best_round).receipts["evaluate"]
        )
        champion = champion_of(context, evaluation, before)
    summary = read_summary(evaluation, EvaluateSummary)
    alarms = alarms_against(candidate, champion, first.headline, summary, selection, section)
    ruling = decide(compare(champion.results, candidate.results, section, promotions), alarms)
    blocked = any(alarm.blocks for alarm in alarms)
    return candidate, "promoted" if ruling.promote else "rejected", ruling.why, blocked


def _stop(
    context: Context,
    campaign: Campaign,
    section: DecideSection,
    best: Measured,
    history: tuple[RoundRecord, ...],
    waited: int,
) -> StopReason | None:
    state = campaign.state.model_copy(
        update={"round": history[-1].round, "history": history, "rounds_without_gain": waited}
    )
    reached = best.scores.accuracy(section.goal.slice)
    return stop_reason(section, state, reached, lambda: minutes_spent(context, state.run_id))


def in_words(answer: Answer) -> str:
    """For a terminal of 80 columns or fewer."""
    settings = (
        ", ".join(f"{name} {value}" for name, value in answer.changed.items())
        or "the recipe's own settings"
    )
    lines = textwrap.wrap(f"With {settings}:", WIDTH)
    for one in answer.rounds:
        verdict = one.verdict if one.verdict == one.would_be else f"{one.verdict} -> {one.would_be}"
        lines.append(f"round {one.round}  {100 * one.accuracy:.1f} %  {verdict}")
        lines += textwrap.wrap(one.why, WIDTH, initial_indent="  ", subsequent_indent="  ")
        if one.stop is not None:
            lines.append(f"  the campaign ends here: {one.stop}")
    lines.append(
        f"champion: round {answer.champion_round} as it was, round {answer.would_be_champion_round} with this"
    )
    later = [
        one
        for one in answer.rounds
        if answer.diverges_after is not None and one.round > answer.diverges_after
    ]
    if later:
        told = (
            f"From round {later[0].round} on the rounds that were carried out began from another model than they would "
            "have: their results stand in for results that nobody has."
        )
        lines += textwrap.wrap(told, WIDTH)
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """`python -m components.decide what-if --state URI …`."""
    parser = argparse.ArgumentParser(
        prog="python -m components.decide what-if", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--state", required=True, metavar="URI", help="receipt of the last decide of a campaign"
    )
    for name, (kind, text) in OVERRIDES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = vars(parser.parse_args(arguments))
    state, as_json = given.pop("state"), given.pop("json")
    with step_context(state) as context:
        answer = what_if(context, state, given)
    print(json.dumps(asdict(answer)) if as_json else in_words(answer))
