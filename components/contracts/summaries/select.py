"""Summary of a training mix: the fate of a round's samples, and the rows that are trained on."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from components.contracts.summaries.summary import Part, Summary


class FilterCounts(Part):
    """Samples that one filter saw."""

    given: int
    accepted: int


class FilterQuality(Part):
    """Precision and recall of filters on audit samples.

    Each prompt counts once, by its share of right samples.
    """

    given: int
    """Audit samples."""
    accepted: int
    prompts_accepted: int
    """Prompts with an accepted sample."""
    precision: float | None
    """Share of right samples among the accepted ones; None if nothing is accepted."""
    # Filters are judged by this bound: three right answers of three prove little.
    precision_low: float
    """Lower one-sided 95 % bound of the precision (Clopper–Pearson)."""
    recall: float | None
    """Share of the right samples that is accepted; None if no sample is right."""
    accepted_share: float
    """Share of the given samples that is accepted."""


class FilterAudit(Part):
    """The filters of a round, measured on prompts whose answers are known."""

    prompts: int
    samples: int
    model_accuracy: float
    """Share of right samples before any filter, 0 to 1."""
    filters: dict[str, FilterQuality]
    """Name → this filter, on the samples that earlier filters accepted."""
    all: FilterQuality
    """All filters together."""
    teaches_errors: tuple[str, ...]
    """Filters that dropped something, if it is shown that what is accepted is hardly right more
    often than the model (2510.16657); else none."""
    unproved: tuple[str, ...] = ()
    """The same filters, if these prompts show neither that they help nor that they do not."""


class PromptKind(Part):
    """Prompts with the same tags."""

    tags: dict[str, str]
    prompts: int


class Votes(Part):
    """Agreement of each prompt's samples, and the verifier's verdict on the majority.

    Counted over the prompts of the pool whose text is as long as validation prompts are, and whose
    samples came as far as the verifier. Two samples agree if their normalised answers are equal,
    however they are worded.
    """

    prompts: int
    agreement: float
    """Mean share of a prompt's samples that give its most frequent answer, 0 to 1 (2210.11610)."""
    prompts_passed: int
    """Prompts whose most frequent answer the verifier accepts."""
    passed_agreement: float | None
    """Agreement on these prompts; None without any."""
    refused_agreement: float | None
    """Agreement on the other prompts; None without any."""
    minority: int
    """Samples that came to the verifier and do not give the most frequent answer."""
    minority_passed: int
    """Those of them that the verifier accepts."""
    accepted: int
    """Samples that no filter refused for what they say; repetitions of others are among them."""
    disputed: int
    """Those of them that do not give the most frequent answer."""
    kinds: tuple[PromptKind, ...]
    """The prompts by their tags, as far as validation prompts have the same tags."""


class HintedCounts(Part):
    """The fate of the samples with a hint."""

    prompts: int
    """Prompts that were asked with a hint."""
    generated: int
    accepted: int
    dropped: dict[str, int]
    """Reason → samples."""
    filters: dict[str, FilterCounts]
    prompts_accepted: int
    """Prompts with an accepted sample."""


class HintPool(Part):
    """The prompts that wait for a hint."""

    found: int
    """Prompts that were too hard in this round."""
    answered: int
    """Prompts that left the pool because a sample was right."""
    waiting: int
    """Prompts in the pool after this round."""


class Agreement(Part):
    """Agreement of people with the automatic measure, the verifier or the vote."""

    answers: int
    """Answers that people marked, each once."""
    right: int
    """Answers that people call right."""
    automatic_right: int
    accuracy: float
    """Share of the answers on which both agree."""
    kappa: float | None
    """Cohen's kappa; None where both say the same of every answer."""


class SelectSummary(Summary):
    """The rows that a round trains on.

    The mix that prepare writes for the first training has no samples. A weak round has too few: it
    has no mix, and no candidate is trained.
    """

    written_by: ClassVar[tuple[str, ...]] = ("select", "mix")
    round: int
    shards: tuple[str, ...] = ()
    """Refs of the generate receipts, in the order of the shards."""
    generated: int = 0
    """Samples without a hint, those of audit prompts apart."""
    accepted: int = 0
    acceptance: float | None = None
    """Share of the samples that is accepted; None without samples."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """Reason → samples."""
    filters: dict[str, FilterCounts] = Field(default_factory=dict)
    """Name → samples that this filter saw."""
    prompts: int = 0
    prompts_accepted: int = 0
    """Prompts with an accepted sample."""
    pairs: int | None = None
    """Accepted samples with a wrong one beside them; None where training learns from no pairs."""
    labelled_pairs: int | None = None
    """Labelled rows with an answer of the model's own beside them; None unless the recipe asks."""
    wrong_rows: int | None = None
    """Wrong samples that are trained on, of this round and earlier ones; None where training learns
    from none by themselves."""
    audit_samples: int = 0
    distinct_share: float | None = None
    """Share of the samples whose text differs from the prompt's earlier ones; None without samples.
    """
    mean_answer_tokens: float | None = None
    """Tokens a sample; None without samples."""
    tokens_sampled: int = 0
    """Tokens of everything that generate drew for this round: audit prompts and hints too."""
    finished_share: float | None = None
    """Share of the samples without a hint that the model itself ended; None without samples."""
    why_weak: str | None = None
    """Why the round is weak, with the numbers and what helps, in a sentence; None if it is not."""
    labelled_rows: int
    """Labelled rows of the mix; 0 in a weak round, like the other counts of the mix."""
    self_rows: int = 0
    """Rows of the mix that the model made, in this round or before."""
    older_left_out: dict[str, int] = Field(default_factory=dict)
    """Reason → accepted rows of earlier rounds that are not in the mix."""
    # Filters prefer some kinds of answers to others, and each round would add to it.
    bias: dict[str, float] = Field(default_factory=dict)
    """Attribute → Jensen–Shannon distance of accepted and labelled rows, 0 (alike) to 1."""
    # Counted once, where the samples are; later steps read it here.
    votes: Votes | None = None
    """None if no prompt could be counted."""
    audit: FilterAudit | None = None
    """None without audit samples."""
    people: Agreement | None = None
    """None if no person was asked."""
    teaches_errors: tuple[str, ...] = ()
    """Filters by which this round would teach errors: those of the audit (2510.16657)."""
    why_blocked: str | None = None
    """The numbers behind it, in a sentence; None if no error is taught."""
    why_unproved: str | None = None
    """A sentence with the numbers, if the audit shows neither; else None."""
    hinted: HintedCounts | None = None
    """None if the recipe asks for no hints."""
    too_hard: HintPool | None = None
    """None if the recipe asks for no hints."""
