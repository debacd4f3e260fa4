"""Choice of the rows whose gradient lowers the loss on labelled rows.

This is bilevel selection, min_w L_val(θ*(w)), one training step at a time.
"""

from __future__ import annotations

from components.contracts.rows import Dropped
from components.select.filter_settings import FilterSettings
from components.select.scored_samples import (
    Block,
    Filter,
    NoScore,
    Outcome,
    Remaining,
    ScoredSample,
    drop,
    with_score,
)


def filter_of(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops rows which would raise the loss on labelled rows of the dev split.

    Those are the rows with ⟨∇L_val, ∇l_i⟩ ≤ 0 (1803.09050, 2402.04333). None if the recipe does not
    ask for it.
    """
    if settings.section.influence is None:
        return None
    scorer = settings.scorers["influence"]

    def apply(block: Block) -> Outcome:
        passed: list[ScoredSample] = []
        dropped: list[Dropped] = []
        for unscored, score in zip(block, scorer(block), strict=True):
            if score is None or isinstance(score, NoScore):
                detail = (
                    "it is too long for the model" if score is None else score.reason
                )
                dropped.append(drop(unscored, "unscored", detail))
                continue
            scored = with_score(unscored, "influence", score)
            if score > 0:
                # The weight stays. 1803.09050 weighs by the product, so right rows that the model
                # finds hard would count least: measured, that recovers less of what clean samples
                # would teach.
                passed.append(scored)
            else:
                detail = f"influence {score:.3g}: it would raise the dev loss"
                dropped.append(drop(scored, "influence", detail))
        return passed, dropped

    return apply
