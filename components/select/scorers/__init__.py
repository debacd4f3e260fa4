"""Scores of samples by others than the verifier: judge, reward, champion, base, dev rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.select.filter_settings import Scorer
from components.select.scorers.judge import Judge
from components.select.scorers.models import (
    influence_scorer,
    likelihood_scorers,
    reward_scorer,
)


@contextmanager
def scorers_of(
    context: Context, campaign: Campaign, scratch: Path
) -> Iterator[dict[str, Scorer]]:
    """Yield name → scorer, for those that the recipe asks for. Models are loaded at first use."""
    section = campaign.recipe.select
    scorers: dict[str, Scorer] = {}
    with ExitStack() as stack:
        if section.judge is not None:
            # Entered, so that its connections are closed even if a filter fails.
            judge = stack.enter_context(Judge(section.judge, context.environment))
            scorers["judge"] = judge.grades
        if section.reward is not None:
            scorers["reward"] = reward_scorer(context, section.reward, scratch)
        if section.likelihood is not None or section.ranked_by in (
            "base",
            "difficulty",
        ):
            scorers |= likelihood_scorers(context, campaign)
        if section.influence is not None or section.ranked_by == "influence":
            scorers["influence"] = influence_scorer(context, campaign)
        yield scorers
