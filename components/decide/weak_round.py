"""A round with too few accepted samples: no candidate was trained, so nothing is compared."""

from __future__ import annotations

from components.decide import alpha_account
from components.decide.finished_round import FinishedRound, Outcome
from components.decide.gate import Ruling
from components.decide.guards import self_agreement
from components.decide.measured import Measured
from components.decide.reflection.round_measures import weak_round_measures


def outcome_of_weak(finished: FinishedRound) -> Outcome:
    """Return the outcome of a weak round: rejected, with the drops as the reason.

    The champion stands for the candidate. No alpha is spent, because no test was made.
    """
    state = finished.campaign.state
    selection = finished.summaries.mix
    champion = Measured.of(finished.context, finished.earlier.champion)
    measures = weak_round_measures(selection, champion)
    reason = (
        f"too few accepted samples, so no candidate was trained: {selection.why_weak}"
    )
    return Outcome(
        verdict="rejected",
        ruling=Ruling(False, reason),
        candidate=champion,
        champion=champion,
        comparison=None,
        # A warning about the model that sampled; alarms about a candidate there are none.
        alarms=self_agreement(state.history, measures, state.plan.level),
        measures=measures,
        alpha_account=alpha_account.opened(
            state.alpha_account, finished.campaign.recipe.decide
        ),
    )
