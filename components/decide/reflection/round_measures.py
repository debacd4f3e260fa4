"""All measures of a round: of its training, answers, mix and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from components.contracts import artifacts
from components.contracts.summaries import LogEntry, SelectSummary, TrainSummary
from components.decide.measured import Measured
from components.decide.reflection.data_causes import passed
from components.decide.reflection.measures import (
    Measures,
    answer_measures,
    human_loss_measures,
    loss_measures,
    mix_measures,
    mix_rows,
    references_of,
    split_prompts,
    verifier_measures,
)
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, read_summary


def round_measures(
    context: Context,
    campaign: Campaign,
    mix: Receipt,
    train: TrainSummary,
    log: Sequence[LogEntry],
    candidate: Measured,
    champion: Measured,
) -> Measures:
    """Return the round in numbers: name of a measure → value.

    Args:
        context: Store of the receipts.
        campaign: The campaign, with the recipe and the splits.
        mix: Receipt of the mix that was trained on.
        train: Summary of the training.
        log: Log entry of each step.
        candidate: Results of the candidate.
        champion: Results of the champion.
    """
    selection = read_summary(mix, SelectSummary)
    # Of the last stage alone: that of raw text has other losses, and the step between them is no
    # spike.
    last_stage = [entry for entry in log if entry.stage == log[-1].stage]
    losses = [entry.loss for entry in last_stage]
    tokens = [entry.tokens for entry in last_stage]
    measures = loss_measures(train, losses, tokens)
    measures |= human_loss_measures(candidate.headline, champion.headline)
    # The plan is made by these, so they are of the dev split: prompts that steer prove nothing.
    references = references_of(
        split_prompts(context, campaign.prepared, artifacts.DEV_PROMPTS)
    )
    measures |= answer_measures(candidate.dev, champion.dev, references)
    # Texts alone, no answers: what the gate decides by must not be in the mix.
    validation = split_prompts(context, campaign.prepared, "validation")
    measures |= mix_measures(mix_rows(context, mix), validation)
    measures |= _sample_measures(selection)
    if selection.votes is not None:
        measures |= verifier_measures(selection.votes, champion.dev)
    num_rows = selection.labelled_rows + selection.self_rows
    # How often a row is drawn on average; draws are by weight, so some rows come more often.
    if num_rows:
        num_draws = train.steps * campaign.recipe.train.batch_size
        measures["epochs"] = num_draws / num_rows
    return _rounded(measures)


def weak_round_measures(selection: SelectSummary, champion: Measured) -> Measures:
    """Return a weak round in numbers: there are samples, but no training and no candidate.

    Args:
        selection: Summary of the selection.
        champion: Results of the champion, which drew the samples.
    """
    measures = _sample_measures(selection)
    if selection.votes is not None:
        measures |= verifier_measures(selection.votes, champion.dev)
    return _rounded(measures)


def champion_answer_measures(
    context: Context, campaign: Campaign, champion: Measured
) -> Mapping[str, float]:
    """Return how the champion's own dev answers end, for the checks of a weak round.

    They are no measures of the round: they were taken before it, so that no change can move them.
    """
    references = references_of(
        split_prompts(context, campaign.prepared, artifacts.DEV_PROMPTS)
    )
    measures = answer_measures(champion.dev, (), references)
    return {name: value for name, value in measures.items() if name != "accuracy"}


def _rounded(measures: Measures) -> Measures:
    # More digits would only make cards and states hard to read.
    return {name: round(float(value), 6) for name, value in sorted(measures.items())}


def _sample_measures(selection: SelectSummary) -> Measures:
    """Return the measures of a round's samples, as far as it drew any."""
    measures: Measures = {}
    if selection.audit is not None:
        measures["audit_accuracy"] = selection.audit.model_accuracy
        measures["audit_prompts"] = selection.audit.prompts
    # Without samples a share of 0 would look like a round in which all were refused.
    if selection.generated:
        measures["accepted"] = selection.accepted
        measures["passed"] = passed(selection)
    if selection.finished_share is not None:
        measures["samples_finished"] = selection.finished_share
    if selection.distinct_share is not None:
        measures["distinct_share"] = selection.distinct_share
    if selection.hinted is not None and selection.too_hard is not None:
        measures["hinted"] = selection.hinted.generated
        measures["hinted_accepted"] = selection.hinted.accepted
        measures["too_hard"] = selection.too_hard.waiting
    return measures
