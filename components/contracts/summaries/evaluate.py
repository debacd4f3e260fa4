"""Summary of an evaluation: numbers of candidate and champion, signs of collapse."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from components.contracts.recipe import Metric
from components.contracts.summaries.summary import Part, Share, Summary

CollapseSign = Literal["distinct_2", "perplexity", "pass_at_k", "length"]
"""Measures that show a collapse."""
Interval = tuple[float, float]
"""Lower and upper end of a 95 % interval."""


class Estimate(Part):
    """A mean over prompts with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Prompts."""


class SliceScores(Share):
    """The results of one slice."""

    finished_share: float
    """Share of the greedy answers that the model itself ended, 0 to 1."""
    mean_answer_tokens: float
    pass_at_k: float | None = None
    """None where no samples were drawn."""
    mse: float | None = None
    """Mean squared error of numbers, clipped as in `NumericErrors`; None where right is no
    number."""
    label_accuracy: float | None = None
    """Accuracy of classes chosen by likelihood; None where the rows have no label."""


class NumericErrors(Part):
    """Errors of answers that are numbers.

    The largest twentieth of the errors that are not 0, and at least one of several, counts like the
    largest of the others: else a single answer could decide the means.
    """

    n: int
    """Prompts whose answer is a number."""
    unparsed: int
    """Answers that hold no number."""
    mse: float | None
    """Mean squared error; None if no answer holds a number, like the rest."""
    mae: float | None
    """Mean absolute error."""
    low: float | None
    """Ends of the 95 % interval of `mse`; None too if it is of a single answer."""
    high: float | None


class LabelScores(Part):
    """One class."""

    n: int
    """Rows of this class."""
    precision: float
    recall: float
    f1: float


class Classification(Share):
    """Classes by the likelihood of their label, normalised over the classes."""

    macro_f1: float
    """Mean F1 of the classes that occur among the right or the chosen ones."""
    brier: float | None = None
    """Mean squared error of the probabilities, summed over the classes (Brier 1950): 0 for
    certainty that is right, 2 for certainty that is wrong. None in older receipts."""
    labels: dict[str, LabelScores]


class TextScores(Part):
    """Likelihood of text that people wrote, under one model."""

    split: Literal["retention", "dev"]
    n: int
    """Texts."""
    tokens: int
    loss: float
    """Nats per token."""
    perplexity: float
    """Per token."""
    # Tokens of one text are not independent of each other.
    low: float
    """Ends of the 95 % interval of the perplexity, clustered by text."""
    high: float
    token_accuracy: float
    """Share of tokens that the model finds likeliest, 0 to 1."""
    accuracy: float
    """Share of texts whose every token is the likeliest."""


class VerificationGap(Part):
    """Generation–verification gap (2412.02674) with the model's own majority as the verifier."""

    k: int
    """Samples a prompt."""
    n: int
    """Prompts."""
    sample_accuracy: float
    majority_accuracy: float
    # Without a gap, a model that filters its own answers has nothing to learn from them.
    gap: float
    """The majority's accuracy minus that of one sample."""
    low: float
    high: float


class Diversity(Part):
    """Variety of the greedy answers."""

    texts: int
    # 1 for answers that share no word; long and repetitive answers come near 0.
    distinct_1: float | None
    """Different words over all words (1510.03055); None without any."""
    distinct_2: float | None
    """The same of word pairs."""
    self_bleu: float | None
    vendi: float | None
    answer_entropy: float
    """Entropy of the answers, in nats."""
    sample_entropy: float | None
    """Mean entropy of a prompt's samples, in nats; None without samples."""


class Bounds(Part):
    """The range a ratio is to stay in; None leaves a side open."""

    below: float | None = None
    above: float | None = None


class RatioSign(Part):
    """A measure now, over that of an earlier model."""

    value: float
    first: float
    """Of the model that it is compared with."""
    against: int = 0
    """Round that trained that model; -1 for the base."""
    ratio: float
    n: int
    """Word pairs, texts or prompts it is measured on."""
    # Half of a blocking change warns.
    block: Bounds
    """Outside of it the candidate is blocked."""
    warn: Bounds


class PassAtKSign(Part):
    """The change of pass@k against an earlier model.

    It blocks if it is surely (97.5 %) a fall, and warns if that is likely (90 %).
    """

    k: int
    value: float
    first: float
    """Of the model that it is compared with."""
    against: int = 0
    """Round that trained that model; -1 for the base."""
    difference: float
    """Now minus then."""
    low: float
    """Ends of the 95 % interval of the difference."""
    high: float
    warn_high: float
    """Upper end of its 80 % interval."""
    n: int
    """Prompts."""


class Collapse(Part):
    """Signs of collapse against the first promoted candidate (the base until there is one) and the
    champions since.

    None for a sign that was not measured (too little text, no text of people, no samples), and for
    all before there is a champion.
    """

    distinct_2: RatioSign | None = None
    """Different word pairs in the greedy answers."""
    perplexity: RatioSign | None = None
    """Perplexity of text that people wrote."""
    pass_at_k: PassAtKSign | None = None
    length: RatioSign | None = None
    """Tokens of the greedy answers."""

    @property
    def signs(self) -> dict[CollapseSign, RatioSign | PassAtKSign]:
        """The signs that were measured, by name."""
        all_signs: dict[CollapseSign, RatioSign | PassAtKSign | None] = {
            "distinct_2": self.distinct_2,
            "perplexity": self.perplexity,
            "pass_at_k": self.pass_at_k,
            "length": self.length,
        }
        return {name: sign for name, sign in all_signs.items() if sign is not None}


class CollapseAlarm(Part):
    """A sign of collapse that is beyond its bound."""

    measure: CollapseSign
    value: float
    """The ratio, or the difference of pass@k."""
    limit: float
    why: str
    """One sentence with the numbers."""


class Measurement(Part):
    """Content addresses of the two measurements: equal ones are the same work."""

    # The champion was a candidate once: where prompts, code and settings are the same, its results
    # are taken from that measurement.
    candidate: str
    champion: str | None = None
    """None before there is a champion."""
    champion_reused: bool | None = None
    """True if the champion's own receipt gave its results; None before there is a champion."""


class AnswerShape(Part):
    """Form of the greedy answers."""

    finished_share: float
    """Share that the model itself ended, 0 to 1."""
    mean_answer_tokens: float
    distinct_share: float
    """Share of different texts, 0 to 1."""


class ModelScores(AnswerShape):
    """The numbers of one model that a person compares. Accuracies are of greedy answers, 0 to 1."""

    metric: Metric = "accuracy"
    """The campaign's measure."""
    measured: dict[str, dict[str, Estimate]] = Field(default_factory=dict)
    """Split → slice (`tag=value`; empty: all prompts) → value of that measure."""
    validation_accuracy: float
    test_accuracy: float
    dev_accuracy: float | None = None
    """Steers the plan; None without dev prompts."""
    pass_at_k: float | None
    """Over validation prompts (2107.03374); None if the recipe draws no samples."""
    perplexity: float | None
    """Per token of text that people wrote; None without such text."""
    label_accuracy: float | None = None
    """Of classes by likelihood, over validation prompts; None without classes, like the next two."""
    macro_f1: float | None = None
    brier: float | None = None


class Intervals(Part):
    """95 % intervals of the scores; None for what was not measured."""

    validation_accuracy: Interval
    test_accuracy: Interval
    pass_at_k: Interval | None = None
    perplexity: Interval | None = None


class EvaluateSummary(Summary, ModelScores):
    """The candidate's scores, and comparisons with the champion and an earlier model."""

    written_by: ClassVar[tuple[str, ...]] = ("evaluate",)
    round: int
    slices: dict[str, SliceScores]
    """`tag=value` → validation results."""
    test_slices: dict[str, SliceScores]
    """`tag=value` → test results."""
    dev_slices: dict[str, SliceScores] = Field(default_factory=dict)
    """`tag=value` → dev results; empty without dev prompts."""
    pass_k: int
    """The recipe's k; 0: no samples are drawn."""
    pass_at: dict[str, Estimate]
    """k → pass@k, for the powers of two up to `pass_k` and for `pass_k` itself."""
    numeric: dict[str, NumericErrors]
    """Split → errors, for splits with numbers."""
    classification: dict[str, Classification]
    """Split → scores, for splits with labels."""
    tokens: int
    """Tokens that the candidate sampled."""
    # A difference of two models means nothing without them.
    intervals: Intervals
    retention: TextScores | None
    """Scores of text that people wrote; None without any."""
    generation_verification: VerificationGap | None
    """None without two samples a prompt."""
    diversity: Diversity
    harness: dict[str, dict[str, float]]
    """Task of lm-eval → metric → value."""
    # Nothing is left out silently.
    skipped: dict[str, str]
    """Measure that could not be taken → reason."""
    measurement: Measurement
    champion: ModelScores | None = None
    """Measured on the same prompts; None before there is a champion."""
    collapse: Collapse = Field(default_factory=Collapse)
    blocks: tuple[CollapseAlarm, ...] = ()
    """Signs of collapse that block the candidate."""
    warnings: tuple[CollapseAlarm, ...] = ()
