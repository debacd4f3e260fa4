"""The base model as champion number one: every candidate of the campaign has to be better."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.canonical import canonical_json
from components.contracts import artifacts
from components.contracts.state import ModelRecord, State
from components.contracts.summaries import ChampionSummary
from components.decide.measured import Measured
from components.errors import Corrupt
from components.measures import measure_of
from components.runtime.attempts import Task
from components.runtime.campaign import BEFORE_ROUNDS, Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, commit_once


@dataclass(frozen=True)
class FirstChampionInputs:
    """A campaign whose base model is measured."""

    state: str
    """URI of the state before there is a champion."""
    evaluate: Receipt
    """Receipt of the base model's evaluation."""


def run(inputs: FirstChampionInputs, context: Context) -> Receipt:
    """Write `state.json`, in which the base model is the champion.

    A campaign that goes on keeps the champion that it has: its state is returned as it is.

    Raises:
        Corrupt: The evaluation is of another model.
        UserError: The goal's slice has no validation prompts.
    """
    campaign = load_campaign(context, inputs.state)
    if campaign.prepared.digest != inputs.evaluate.inputs.get("candidate"):
        raise Corrupt(
            f"{inputs.evaluate.ref} measured another model than the base of {campaign.prepared.ref}"
        )
    if campaign.state.champion is not None:
        return campaign.state_receipt
    return commit_once(
        context,
        Task(run_id=campaign.state.run_id, name="first-champion", round=BEFORE_ROUNDS),
        "champion",
        config=campaign.config(goal=campaign.recipe.decide.goal),
        inputs={
            "state": campaign.state_receipt,
            "prepare": campaign.prepared,
            "evaluate": inputs.evaluate,
        },
        seed=campaign.recipe.seed,
        work=lambda folder: _crown(context, campaign, inputs.evaluate, folder),
    )


def _crown(
    context: Context, campaign: Campaign, evaluation: Receipt, folder: Path
) -> ChampionSummary:
    record = Measured.of(context, evaluation).record(campaign.recipe.decide.goal.slice)
    state = _state_with_champion(campaign, evaluation, record)
    (folder / artifacts.STATE).write_bytes(
        canonical_json(state.model_dump(mode="json"))
    )
    score = measure_of(record.metric).text(record.score)
    context.progress.note(f"{record.metric} of the base model on validation: {score}")
    return ChampionSummary(
        champion=campaign.prepared.ref,
        metric=record.metric,
        score=record.score,
        test_score=record.test_score,
    )


def _state_with_champion(
    campaign: Campaign, evaluation: Receipt, record: ModelRecord
) -> State:
    return campaign.state.model_copy(
        update={
            "start": campaign.start.ref,
            "base": record,
            "base_evaluation": evaluation.ref,
            "champion": campaign.prepared.ref,
            "champion_evaluation": evaluation.ref,
            "first_evaluation": evaluation.ref,
        }
    )
