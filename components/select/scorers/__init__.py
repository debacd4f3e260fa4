"""What gives samples a score from outside of them: a judge, a reward model, the champion, the base,
dev rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.select.filter_settings import Scorer
from components.select.scorers.judge import Judge
from components.select.scorers.models import influence_scorer, likelihood_scorers, reward_scorer


@contextmanager
def scorers_of(context: Context, campaign: Campaign, scratch: Path) -> Iterator[dict[str, Scorer]]:
    """The scorers that the recipe asks for, by name; models are loaded when they are first asked."""
    section = campaign.recipe.select
    found: dict[str, Scorer] = {}
    with ExitStack() as stack:
        if section.judge is not None:
            found["judge"] = stack.enter_context(Judge(section.judge, context.environment)).grades
        if section.reward is not None:
            found["reward"] = reward_scorer(context, section.reward, scratch)
        if section.likelihood is not None:
            found |= likelihood_scorers(context, campaign)
        if section.influence is not None:
            found["influence"] = influence_scorer(context, campaign)
        yield found
