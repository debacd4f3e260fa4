"""The recipe's section `decide`: when a candidate is promoted and when the campaign ends."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.contracts.recipe.section import Positive, Section, Share


class Goal(Section):
    """When the campaign has reached its end."""

    threshold: Share
    """Validation accuracy to reach."""
    slice: str = ""
    """`tag=value`, for example `length=12`; empty: all validation prompts."""


class Budget(Section):
    """What a campaign may cost; the round that crosses it is the last."""

    minutes: Annotated[float, Field(gt=0)] | None = None
    """Sum of the seconds of all finished tasks."""
    tokens: Positive | None = None
    """Tokens generated and trained on, all rounds."""


class DecideSection(Section):
    """When a candidate is promoted and when the campaign stops."""

    goal: Goal
    max_rounds: Positive = 4
    patience: Positive = 2
    """Stop after this many rounds in a row without a promotion."""
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """False promotions allowed per campaign. Each round may spend alpha / max_rounds, and what the
    promotions just before it left unspent (1910.04900)."""
    score: Literal["right", "error"] = "right"
    """What champion and candidate are compared by, prompt by prompt: right or wrong, or the
    absolute error of numeric answers."""
    family: str = ""
    """Tag whose values are families of validation prompts that resemble each other (a template, a
    topic), so that their results are not independent; empty: every prompt stands alone."""
    max_perplexity_ratio: Annotated[float, Field(ge=1.0)] = 1.10
    """Perplexity on human text against round 0 above which a candidate is rejected."""
    retention_margin: Annotated[float, Field(ge=0.0)] = 0.01
    """What a candidate may lose on the retention split: its token accuracy minus the champion's
    must be above minus this with 95 % confidence."""
    budget: Budget = Budget()
