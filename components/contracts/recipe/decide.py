"""The recipe's section `decide`: when a candidate is promoted and when the campaign ends."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from components.contracts.recipe.section import Positive, Section, Share

MAX_RETENTION_MARGIN = 0.2
"""Share of tokens. Who wants to allow a greater loss switches the guard off in so many words."""


Metric = Literal["accuracy", "perplexity", "brier", "mean_score", "macro_f1"]
"""Measures of a model that goal, gate, release and report share; `components.measures` has them."""


ComparedBy = Literal["right", "error", "loss", "brier", "score", "macro_f1"]
"""Scores of a prompt."""


class Goal(Section):
    """The measure of the campaign's models, and its value at which the campaign ends."""

    metric: Metric = "accuracy"
    """`accuracy`: share of right greedy answers, higher is better. `perplexity`: per token of the
    reference answers, or of raw text, lower is better. `brier`: of rows of text and label, the
    squared distance of the classes' probabilities to the right class, 0 to 2, lower is better.
    `mean_score`: mean of the scores from 0 to 1 that a verifier which grades (`chrf`, `bleu`,
    `rouge_l`, `wer`, `cer`, a checker of your own) gives the greedy answers, whatever its
    threshold, higher is better. `macro_f1`: of rows of text and label, the mean of F1 over the
    classes, by the likeliest class, higher is better; each class needs 5 validation prompts. The
    gate and the release compare models by the same measure."""
    threshold: float
    """Value to reach on validation: an accuracy, a mean score or a macro-F1 from 0 to 1, a perplexity
    from 1, or a Brier score from 0 to 2."""
    slice: str = ""
    """`tag=value`, for example `length=12`; empty: all validation prompts."""

    @field_validator("threshold")
    @classmethod
    def _in_range(cls, threshold: float, info: ValidationInfo) -> float:
        # Absent where it is wrong itself, which is told then.
        metric = info.data.get("metric")
        if metric == "accuracy" and not 0 <= threshold <= 1:
            raise ValueError("an accuracy is a share, from 0 to 1")
        if metric == "mean_score" and not 0 <= threshold <= 1:
            raise ValueError("a mean score is from 0 to 1 (best)")
        if metric == "macro_f1" and not 0 <= threshold <= 1:
            raise ValueError("a macro-F1 is from 0 to 1 (best)")
        if metric == "brier" and not 0 <= threshold <= 2:
            raise ValueError("a Brier score is from 0 (best) to 2")
        if metric == "perplexity" and threshold < 1:
            raise ValueError("a perplexity is 1 at the least")
        return threshold


class Budget(Section):
    """Limits of the cost of a campaign: no round is begun that would cross one if it cost as much as
    the last one."""

    # Counted from attempt records, so tries that failed cost too.
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Sum of the time of all tasks."""
    tokens: Positive | None = None
    """Tokens generated and trained on, all rounds."""


class DecideSection(Section):
    """Rules by which a candidate is promoted and the campaign stops."""

    goal: Goal
    # Rounds are unrolled when the pipeline is compiled. A run of 56 tasks was 1.95 MiB of Workflow
    # and could not be retried; longer campaigns begin a new run with `resume_from`.
    max_rounds: Positive = 4
    patience: Positive = 2
    """Stop after this many rounds in a row without a promotion."""
    # A campaign of ten rounds at 5 % each would promote an equal model in four of ten campaigns.
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """False promotions allowed per campaign, however often it is continued. Each planned round may
    spend alpha / max_rounds, and what the promotions just before it left unspent (1910.04900);
    rounds that are added later share half of what is left. The least alpha of all runs counts."""
    score: Literal["right", "error"] = "right"
    """Of an accuracy, the score by which champion and candidate are compared, prompt by prompt:
    right or wrong, or the absolute error of numeric answers (the champion's largest 5 % count as
    one size)."""
    family: str = ""
    """Tag whose values are families of validation prompts that resemble each other (a template, a
    topic), so that their results are not independent; empty: every prompt stands alone. Many small
    families prove more than few large ones: unseen ones may lose all."""
    # A model that trains on its own answers forgets how people write before its accuracy falls.
    max_perplexity_ratio: Annotated[float, Field(ge=1.0)] = 1.10
    """Perplexity on human text, over the lowest of the base and all champions, above which a
    candidate is rejected."""
    # Non-inferiority, not equality: with few texts equality could never be proved.
    retention_margin: float | None = 0.01
    """Share of tokens, 0 to 0.2, that a candidate may lose on the retention split: its token
    accuracy minus the champion's must be above minus this with 95 % confidence. 0.01 is one
    percentage point; null: no bound."""
    # Filters prefer some answers to others, and a model that learns from them prefers these more.
    max_bias: Share | None = None
    """Jensen–Shannon distance (0 alike, 1 nothing in common) of a round's accepted answers to those
    of labelled rows, above which its candidate is rejected; half of it warns. For short answers,
    such as classes. null: no bound."""
    budget: Budget = Budget()

    @property
    def compared_by(self) -> ComparedBy:
        """Score of a prompt by which two models are compared."""
        match self.goal.metric:
            case "perplexity":
                return "loss"
            case "brier":
                return "brier"
            case "mean_score":
                return "score"
            case "macro_f1":
                return "macro_f1"
            case "accuracy":
                return self.score

    @model_validator(mode="after")
    def _score_fits(self) -> DecideSection:
        if self.goal.metric != "accuracy" and self.score == "error":
            raise ValueError(
                "score error is for `goal.metric: accuracy`: leave one of them out"
            )
        if self.goal.metric == "macro_f1" and self.family:
            # F1 is no mean over prompts, and no test of it over families is known to hold its level.
            raise ValueError(
                "goal.metric macro_f1 takes every prompt for itself: leave out family"
            )
        return self

    @field_validator("retention_margin")
    @classmethod
    def _margin_is_a_share(cls, margin: float | None) -> float | None:
        # 1, written for 1 %, would allow the loss of everything: the guard would never speak.
        if margin is not None and not 0.0 <= margin <= MAX_RETENTION_MARGIN:
            raise ValueError(
                f"must be a share of tokens from 0 to {MAX_RETENTION_MARGIN}, not a percentage: "
                "0.01 allows the loss of one percentage point of token accuracy, null any loss"
            )
        return margin
