"""The recipe's section `select`: filters of samples, and the mix that is trained on."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.contracts.recipe.endpoint import ChatEndpoint
from components.contracts.recipe.section import Band, Positive, Section, Share


class JudgeScorer(ChatEndpoint):
    """A language model that grades answers, at an endpoint that speaks OpenAI's API.

    Its URL and key come from the environment: RATCHET_JUDGE_URL and RATCHET_JUDGE_KEY.
    """

    rubric: str = "10: correct, complete and clear. 5: partly right. 0: wrong, empty, or off the question."
    """Meaning of the grades; the judge answers with one whole number from 0 to 10, nothing else."""
    min_score: Annotated[int, Field(ge=0, le=10)] = 8
    # A judge that does as it is told ends after one number, whatever the limit.
    max_tokens: Positive = 1024
    """Longest reply: room for the thoughts of a reasoning model."""


class People(Section):
    """People who mark answers as right or wrong.

    A round waits after its answers are drawn: `review export` writes them as a page and a file,
    `review import` takes the verdicts, and the run that is begun again goes on. An answer teaches
    if a person calls it right; what nobody marked teaches nothing.
    """

    min_verdicts: Positive = 100
    """Answers that have to be marked before the round goes on, or all where there are fewer."""


class RewardScorer(Section):
    """A reward model: a sequence classifier with one output."""

    source: str
    """A folder or s3://bucket/prefix of a checkpoint with safetensors weights and its tokenizer."""
    min_score: float = 0.0
    batch_size: Positive = 32


class LikelihoodBand(Section):
    """Perplexity per token within which an answer teaches: [lowest, highest], or none."""

    champion: Band | None = None
    """Under the model that wrote it."""
    base: Band | None = None
    """Under the model the campaign began from."""
    ratio: Band | None = None
    """Champion over base: far below 1, the champion has drifted from it."""


class DifficultyBand(Section):
    """Prompts that the model sometimes gets right, weighted by p(1-p) of its pass rate p.

    Without a verifier p is the share of the samples that agree. Sources: 2504.03380, 2503.14476.
    """

    replay: Share = 0.05
    """Share of the solved prompts (p = 1) that stay, so that they are not forgotten."""


class Keep(Section):
    """A choice among the samples that pass all filters: as many by every strategy.

    Two recipes that differ in `by` alone train on the same number of rows, so they compare the
    strategies and nothing else. With both, the smaller of `share` and `rows` counts.
    """

    by: Literal[
        "random",
        "diversity",
        "k-centre",
        "score",
        "difficulty",
        "likelihood",
        "influence",
    ]
    """`random`: the baseline. `diversity`: from each of `clusters` in turn, over hashed TF-IDF
    vectors; `k-centre`: the row farthest from all chosen (1708.00489). `score`: the highest score
    of judge, reward or influence, else vote share. `difficulty`: prompts that the model is most
    undecided on; without verifier and votes, the answers that their prompts make least likelier
    (IFD, 2308.12032); without a prompt, the texts that surprise the champion most. `likelihood`:
    the lowest perplexity under the base. `influence`: the gradients that lower the loss on the dev
    split most (1803.09050)."""
    share: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of them that stays."""
    rows: Positive | None = None
    """Number of them that stays."""
    clusters: Positive = 64
    """For `diversity`."""

    @model_validator(mode="after")
    def _says_how_many(self) -> Keep:
        if self.share is None and self.rows is None:
            raise ValueError("give `share` or `rows`: how many samples stay")
        return self

    def count_of(self, num_samples: int) -> int:
        """Return how many of so many samples stay; at least one of any."""
        kept = num_samples
        if self.share is not None:
            # Rounded first: 0.1 of 30 is 3.0000000000000004 in binary.
            kept = math.ceil(round(self.share * num_samples, 6))
        return min(kept, num_samples, self.rows or num_samples)


class InfluenceChoice(Section):
    """Keep rows whose gradient lowers the loss on the dev split (1803.09050)."""

    # The split that decides must not choose the rows that are trained on.
    dev_rows: Positive = 1024
    """Rows of the dev split at most (never those the gate decides on): the more, the surer."""
    batch_size: Positive = 32


class SelectSection(Section):
    """Filters of samples, and their mix with labelled rows. All that is none or 0 is off."""

    # Every puzzle of a template shares 13 words with every other: "overlap" would drop them all.
    contamination: Literal["exact", "overlap"] = "exact"
    """Search for evaluation items in labelled rows, raw text, prompts and samples. `exact`: whole
    prompts, whatever their case, punctuation and spaces, also inside a longer text, and in raw text
    and prompts without the sentences that ten evaluation prompts share. `overlap`: also shared runs
    of 13 words and near-equal prompts, which is right for text that people wrote, not for puzzles
    made from one template."""
    verifier: bool = True
    """Keep only what the prompt's verifier accepts. False: label-free, by agreement alone."""
    verifier_function: Annotated[
        str, Field(pattern=r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)+)?$")
    ] = ""
    """Dotted name of a Python function (prompt, answer, reference) -> bool that must accept too. It
    is code of yours that runs in the step: nothing but the recipe can name it."""
    judge: JudgeScorer | None = None
    people: People | None = None
    reward: RewardScorer | None = None
    min_vote_share: Share = 0.0
    """Self-consistency: keep a prompt's majority answer if at least this share of its samples agree
    (2210.11610)."""
    tie_goes_to_first: bool = False
    """Of two answers with equally many votes, the one that was sampled first is the majority.
    Off, a tie is no majority: the order of sampling says nothing about an answer."""
    calibrate_vote: bool = False
    """Raise that to the smallest share whose majorities are right on the audit split with a lower
    95 % bound of 0.9."""
    # Wrong answers tend to be short (2502.01612).
    min_length_ratio: Annotated[float, Field(ge=0.0)] = 0.0
    """Drop answers shorter than this multiple of the median answer length of their slice."""
    max_length_ratio: Annotated[float, Field(gt=0.0)] = 4.0
    require_finished: bool = True
    """Drop answers that were cut off."""
    likelihood: LikelihoodBand | None = None
    difficulty: DifficultyBand | None = None
    minhash_threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    """Jaccard similarity (5-gram shingles of prompt + answer) from which the later of two rows is a
    duplicate; at 1 only equal rows are."""
    distinct_paths: bool = False
    """Keep one answer for each list of equations a prompt is solved by (2308.01825)."""
    max_per_prompt: Positive = 10
    """At most this many kept answers per prompt (2312.06585)."""
    influence: InfluenceChoice | None = None
    keep: Keep | None = None
    # To replace labelled rows leads to collapse (2305.17493), to accumulate bounds the error
    # (2404.01413), and a fixed weight of real data keeps it small (2502.18049).
    labelled_share: Share = 0.5
    """Share of drawn rows that are labelled. Reflection never goes below 0.25 (a choice of ours),
    and a lower share is warned of."""
    # The value of 2502.01612.
    newest_share: Share = 0.5
    """Share of the self-made rows that comes from the newest round (2502.01612)."""
    union: bool = False
    """Mix labelled rows and accepted samples of all rounds as they are, D ∪ D' (2404.01413): each
    is drawn equally often. `labelled_share` and `newest_share` are not used then."""
    balance_answers: bool = False
    """Weight accepted answers so that each is drawn as often, relative to the others, as it is among
    labelled rows, up to a factor of four. For short answers, such as classes."""
    # Never a green run on an empty mix: decide looks for the cause of the drops instead.
    min_accepted: Positive = 16
    """With fewer accepted new rows than this the round is weak: no candidate is trained, and the
    next round has another plan."""
    unsafe_replace: bool = False
    """Drop earlier rounds' samples and labelled rows. Leads to collapse (2305.17493); for
    experiments only."""

    @model_validator(mode="after")
    def _fits_together(self) -> SelectSection:
        if self.difficulty is not None and not (self.verifier or self.votes):
            raise ValueError(
                "difficulty needs `verifier: true` or `min_vote_share`: the pass rate is the share of "
                "samples that the verifier accepts, or that agree"
            )
        if self.min_length_ratio > self.max_length_ratio:
            raise ValueError(
                f"min_length_ratio ({self.min_length_ratio:g}) > max_length_ratio "
                f"({self.max_length_ratio:g}) would drop every answer"
            )
        return self

    @property
    def votes(self) -> bool:
        """True if answers are chosen by agreement."""
        return self.min_vote_share > 0 or self.calibrate_vote

    @property
    def ranked_by(self) -> str:
        """Name of the scorer by which `keep` ranks samples; empty where it asks no model."""
        match self.keep.by if self.keep is not None else "":
            case "influence":
                return "influence"
            case "likelihood":
                return "base"
            case "difficulty" if not (self.verifier or self.votes):
                return "difficulty"
        return ""

    @property
    def judges_without_reference(self) -> bool:
        """True if something tells good answers from bad ones where no right answer is known."""
        others = (self.verifier_function, self.judge, self.reward, self.people)
        return self.votes or any(others)
