"""Verdicts on a campaign's finished rounds under other settings. Reads receipts, writes nothing.

A round is decided against the model that would have been champion by then, with the stored results.
If a verdict changes, later rounds would have begun from another model: their results stand in for
results that nobody has, and the answer says so.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from components.contracts.recipe import DecideSection
from components.contracts.state import (
    AlphaAccount,
    RoundRecord,
    StopReason,
    Verdict,
    model_name,
)
from components.contracts.summaries import EvaluateSummary, SelectSummary
from components.decide import alpha_account
from components.decide.gate import Ruling, compare, decide, rounds_without_cost
from components.decide.measured import Measured, alarms_against, champion_of
from components.decide.stopping import minutes_spent, stop_reason
from components.errors import UserError, one_line
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.entrypoints import step_context
from components.runtime.receipts import Receipt, read_receipt, read_summary

Setting = float | str
# Terminals of 80 columns are common; two are left for an indentation.
WIDTH = 78
"""Columns of the text."""
OWN_SETTINGS = "the recipe's own settings"
OVERRIDES = {
    "threshold": (float, "decide.goal.threshold: value of the goal's metric to reach"),
    "slice": (str, "decide.goal.slice, for example length=12; empty: all prompts"),
    "alpha": (float, "decide.alpha: false promotions allowed per campaign"),
    "max_rounds": (int, "decide.max_rounds: alpha is divided among them"),
    "patience": (int, "decide.patience: rounds in a row without a promotion"),
    "max_perplexity_ratio": (
        float,
        "decide.max_perplexity_ratio: on human text, against the best",
    ),
    "retention_margin": (
        float,
        "decide.retention_margin: token accuracy that may be lost",
    ),
    "family": (str, "decide.family: tag of families of prompts; empty: none"),
}
"""Option → (type, help text)."""


@dataclass(frozen=True)
class ReplayedRound:
    """One round under other settings."""

    round: int
    verdict: str
    """Verdict of the campaign."""
    would_be: str
    """Verdict under the other settings."""
    why: str
    """Reason of the latter, in a sentence."""
    score: str
    """Of the candidate by the goal's metric on validation, over its slice, as people read it; in a
    weak round of the champion."""
    stop: StopReason | None
    """Reason for which the campaign would have ended after this round, or None."""


@dataclass(frozen=True)
class Answer:
    """A campaign under other settings."""

    changed: dict[str, Setting]
    """Settings that differ from the recipe's."""
    rounds: tuple[ReplayedRound, ...]
    champion_round: int | None
    """Round of the campaign's champion; None if it is the base."""
    would_be_champion_round: int | None
    """The same under the other settings."""
    diverges_after: int | None
    """The first round with another verdict, or None. Later rounds began from another model than
    they would have."""


def what_if(
    context: Context, state: str, overrides: Mapping[str, Setting | None]
) -> Answer:
    """Decide the finished rounds of a campaign again.

    Args:
        context: Store of the campaign.
        state: Receipt of its last decide.
        overrides: Option of OVERRIDES → value; None leaves the recipe's value.

    Raises:
        UserError: A setting is not valid, or no round is finished.
    """
    campaign = load_campaign(context, state)
    history = campaign.state.history
    if not history:
        raise UserError(
            f"{state}: no round is finished, so there is nothing to decide again"
        )
    changed = {name: value for name, value in overrides.items() if value is not None}
    replay = _Replay(context, campaign, _section(campaign.written.decide, changed))
    for record in history:
        stop = replay.decide_again(record)
        # Rounds after an earlier end would not have been carried out.
        if stop is not None:
            break
    return Answer(
        changed=changed,
        rounds=tuple(replay.rounds),
        champion_round=campaign.state.champion_round,
        would_be_champion_round=replay.champion_round,
        diverges_after=replay.diverges_after,
    )


def _section(section: DecideSection, changed: Mapping[str, Setting]) -> DecideSection:
    """Return the recipe's section with the changed settings."""
    # By the recipe's own model, so that a setting is refused for the same reasons.
    document = section.model_dump(mode="json")
    for name, value in changed.items():
        target = document["goal"] if name in ("threshold", "slice") else document
        target[name] = value
    try:
        return DecideSection.model_validate(document)
    except ValueError as error:
        raise UserError(f"what-if: {one_line(error, 300)}") from None


class _Replay:
    """The rounds of a campaign, decided one after the other under other settings."""

    def __init__(
        self, context: Context, campaign: Campaign, section: DecideSection
    ) -> None:
        self._context = context
        self._campaign = campaign
        self._section = section
        self._history = campaign.state.history
        assert campaign.state.base_evaluation is not None, "a round was decided"
        self._base_evaluation = read_receipt(context, campaign.state.base_evaluation)
        self._first = Measured.of(context, self._base_evaluation)
        self._champion = self._first
        self._champion_texts = [self._first.texts]
        self._replayed: tuple[RoundRecord, ...] = ()
        self._alpha_account = _account_at_the_start(campaign, section)
        self._rounds_without_gain = 0
        self.champion_round: int | None = None
        """Round of the champion so far; None for the base."""
        self.diverges_after: int | None = None
        """The first round with another verdict."""
        self.rounds: list[ReplayedRound] = []

    def decide_again(self, record: RoundRecord) -> StopReason | None:
        """Decide the next round; return the reason for which the campaign would end after it."""
        if record.weak:
            # Nothing was compared: the settings of the gate have no say.
            candidate = self._champion
            ruling, blocked = Ruling(False, record.why), False
        else:
            candidate = Measured.of(
                self._context, self._evaluation_of_round(record.round)
            )
            ruling, blocked = self._ruling(record, candidate)
        verdict: Verdict = "promoted" if ruling.promote else "rejected"
        self._rounds_without_gain += 1
        if ruling.promote:
            # As in decide: collapse is measured against the first that was proved better.
            if self.champion_round is None:
                self._first = candidate
            self._rounds_without_gain = 0
            self._champion = candidate
            self._champion_texts.append(candidate.texts)
            self.champion_round = record.round
        if verdict != record.verdict and self.diverges_after is None:
            self.diverges_after = record.round
        # The stopping rule reads the history: it must see the verdicts of this replay.
        replayed = record.model_copy(update={"verdict": verdict, "blocked": blocked})
        self._replayed = (*self._replayed, replayed)
        stop = self._stop()
        scores = candidate.scores
        score = scores.measure.text(scores.value(self._section.goal.slice))
        self.rounds.append(
            ReplayedRound(
                record.round, record.verdict, verdict, ruling.reason, score, stop
            )
        )
        return stop

    def _evaluation_of_round(self, number: int | None) -> Receipt:
        if number is None:
            return self._base_evaluation
        records = {record.round: record for record in self._history}
        return read_receipt(self._context, records[number].receipts["evaluate"])

    def _ruling(self, record: RoundRecord, candidate: Measured) -> tuple[Ruling, bool]:
        """Return (the gate's verdict on a candidate, True if an alarm blocks it)."""
        champion = self._champion
        # Once the verdicts differ, the champion may be a model that was none in the campaign.
        if self.diverges_after is None:
            # The champion is still that of the campaign: its results beside the candidate's count,
            # which are of the same engine and batches.
            champion = champion_of(
                self._context,
                self._evaluation_of_round(record.round),
                self._evaluation_of_round(self.champion_round),
            )
        evaluation = read_summary(
            self._evaluation_of_round(record.round), EvaluateSummary
        )
        mix = read_receipt(self._context, record.receipts["select"])
        selection = read_summary(mix, SelectSummary)
        alarms = alarms_against(
            candidate,
            champion,
            self._first,
            evaluation,
            selection,
            self._section,
            self._champion_texts,
        )
        # By the replayed verdicts: they decide what alpha earlier rounds would have left.
        level = alpha_account.level_of_round(
            self._alpha_account,
            record.round,
            self._section.max_rounds,
            rounds_without_cost(self._replayed),
        )
        comparison = compare(champion.results, candidate.results, self._section, level)
        blocked = any(alarm.blocks for alarm in alarms)
        ruling = decide(comparison, alarms)
        self._alpha_account = alpha_account.charged(
            self._alpha_account, comparison, promoted=ruling.promote
        )
        return ruling, blocked

    def _stop(self) -> StopReason | None:
        following_plans = [
            record.plan for record in self._history[len(self._replayed) :]
        ]
        state = self._campaign.state.model_copy(
            update={
                "round": self._replayed[-1].round,
                "plan": [*following_plans, self._campaign.state.plan][0],
                "history": self._replayed,
                "rounds_without_gain": self._rounds_without_gain,
            }
        )
        reached = self._champion.scores.value(self._section.goal.slice)
        return stop_reason(
            self._section,
            state,
            reached,
            lambda: minutes_spent(
                self._context, state.run_id, self._replayed[-1].round
            ),
        )


def _account_at_the_start(campaign: Campaign, section: DecideSection) -> AlphaAccount:
    account = alpha_account.opened(None, section)
    actual = campaign.state.alpha_account
    own = campaign.written.decide
    changes: dict[str, float] = {}
    # The last recipe of a campaign that was continued may plan more rounds, or a larger alpha, than
    # its account began with.
    if actual is not None and section.max_rounds == own.max_rounds:
        changes["planned_rounds"] = actual.planned_rounds
    if actual is not None and section.alpha == own.alpha:
        changes["alpha"] = actual.alpha
    return account.model_copy(update=changes)


def in_words(answer: Answer) -> str:
    """Return the answer as text for a terminal of 80 columns."""
    changes = [f"{name} {value}" for name, value in answer.changed.items()]
    settings = ", ".join(changes) or OWN_SETTINGS
    lines = textwrap.wrap(f"With {settings}:", WIDTH)
    for replayed in answer.rounds:
        verdict = replayed.verdict
        if replayed.would_be != verdict:
            verdict += f" -> {replayed.would_be}"
        lines.append(f"round {replayed.round}  {replayed.score}  {verdict}")
        lines += textwrap.wrap(
            replayed.why, WIDTH, initial_indent="  ", subsequent_indent="  "
        )
        if replayed.stop is not None:
            lines.append(f"  the campaign ends here: {replayed.stop}")
    lines.append(
        f"champion: {model_name(answer.champion_round)} as it was, "
        f"{model_name(answer.would_be_champion_round)} with this"
    )
    later_rounds = [
        replayed.round
        for replayed in answer.rounds
        if answer.diverges_after is not None and replayed.round > answer.diverges_after
    ]
    if later_rounds:
        remark = (
            f"From round {later_rounds[0]} on the rounds that were carried out began from "
            "another model than they would have: "
            "their results stand in for results that nobody has."
        )
        lines += textwrap.wrap(remark, WIDTH)
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Run `python -m components.decide what-if --state URI …`."""
    parser = argparse.ArgumentParser(
        prog="python -m components.decide what-if",
        description=__doc__,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--state",
        required=True,
        metavar="URI",
        help="receipt of the last decide of a campaign",
    )
    for name, (value_type, text) in OVERRIDES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=value_type, help=text)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args(arguments)
    overrides = {name: getattr(options, name) for name in OVERRIDES}
    with step_context(options.state) as context:
        answer = what_if(context, options.state, overrides)
    print(json.dumps(asdict(answer)) if options.json else in_words(answer))
