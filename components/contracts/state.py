"""The state that one round hands to the next, and the plan that a round is carried out by.

A state is the file `state.json` of a `start`, `champion` or `decide` receipt; its URI is the one string that
passes from round to round (and that `resume_from` takes). `prepare` commits two receipts:
`prepare`, made from model, data and seed alone, and `start`, the whole recipe and the first state.
Each step has the parts of the recipe that it depends on in its own config, so a changed recipe
repeats only the steps that it touches.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from components.contracts.recipe import (
    LayerStructure,
    LoraStructure,
    Metric,
    Recipe,
    Section,
)

STATE_STEPS = ("start", "champion", "decide")
"""Kinds of receipts that hold a state."""
StopReason = Literal["target", "patience", "max_rounds", "budget", "alarm", "weak"]
STOP_SENTENCES: dict[StopReason, str] = {
    "target": "the goal was reached",
    "patience": "too many rounds in a row brought no proved gain",
    "max_rounds": "all planned rounds are done",
    "budget": "the budget was spent",
    "alarm": "two rounds in a row were rejected by alarms",
    "weak": "too few samples were accepted, and the plan has nothing left to change about it",
}
"""Reason for the end of a campaign → the same in words, for cards, reports and the terminal."""
Verdict = Literal["promoted", "rejected"]
"""promoted: the candidate was proved better; rejected: the champion stays."""
Training = Literal["supervised", "improvement"]
"""supervised: the stages `train.pretrain` and `train.first`, on labelled rows (round 0);
improvement: `train.rounds`, on a mix with samples."""


class Frozen(BaseModel):
    """Base: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Plan(Frozen):
    """The settings of one round that reflection may change; all others stay as the recipe says."""

    training: Training = "improvement"
    """Stages of the recipe that the round trains by; reflection does not change it."""
    learning_rate: float
    steps: int
    weight_decay: float
    temperature: float
    samples_per_prompt: int
    labelled_share: float
    level: int
    """Length the next samples are drawn at (ladders); 0 without a ladder."""
    lora: LoraStructure | None = None
    """Trained parts beside the frozen base; None: everything is trained."""
    layers: LayerStructure | None = None
    """Depth, and the layers that are trained; None: the base's, all of them."""
    # Settings that are as the recipe says until reflection changes them.
    min_vote_share: float | None = None
    max_new_tokens: int | None = None
    neftune_alpha: float | None = None
    dropout: float | None = None
    kl_beta: float | None = None
    batch_size: int | None = None
    early_stopping_patience: int | None = None
    word_dropout: float | None = None


TRAIN_SETTINGS = (
    "neftune_alpha",
    "dropout",
    "kl_beta",
    "batch_size",
    "early_stopping_patience",
)
"""Settings of the plan that stand for keys of the section `train` of the same name."""


def with_plan(recipe: Recipe, plan: Plan) -> Recipe:
    """Return the recipe with those settings of the plan that no step reads from the plan itself."""
    changes: dict[str, Section] = {}
    if plan.min_vote_share is not None:
        update = {"min_vote_share": plan.min_vote_share}
        changes["select"] = recipe.select.model_copy(update=update)
    if plan.max_new_tokens is not None:
        update = {"max_new_tokens": plan.max_new_tokens}
        changes["generate"] = recipe.generate.model_copy(update=update)
    planned: dict[str, float | int | Section] = {}
    for name in TRAIN_SETTINGS:
        setting = getattr(plan, name)
        if setting is not None:
            planned[name] = setting
    rounds = recipe.train.rounds
    if plan.word_dropout is not None and rounds.augmentation is not None:
        update = {"word_dropout": plan.word_dropout}
        augmentation = rounds.augmentation.model_copy(update=update)
        planned["rounds"] = rounds.model_copy(update={"augmentation": augmentation})
    if planned:
        changes["train"] = recipe.train.model_copy(update=planned)
    return recipe.model_copy(update=changes)


def base_plan(recipe: Recipe) -> Plan:
    """Return the settings of a self-improvement round as the recipe has them, with level 0."""
    lora = recipe.train.lora
    layers = recipe.train.layers
    return Plan(
        learning_rate=recipe.train.rounds.learning_rate,
        steps=recipe.train.rounds.steps,
        weight_decay=recipe.train.weight_decay,
        temperature=recipe.generate.temperature,
        samples_per_prompt=recipe.generate.samples_per_prompt,
        labelled_share=recipe.select.labelled_share,
        level=0,
        lora=None if lora is None else lora.structure,
        layers=None if layers is None else layers.structure,
    )


class Cause(Frozen):
    """A cause that reflection found for the results of a round, and the change that it leads to."""

    name: str
    """Fixed word: overfitting, underfitting, too_few_accepted, low_diversity, …"""
    evidence: str
    """A sentence with the numbers."""
    priority: float
    """Place among the causes of a round, 0 to 1: a constant of the rule that found it, lower where the
    candidate was promoted. It is no probability."""
    change: str | None
    """Setting and bounded change, `temperature 0.7 → 0.9`; None if the plan stays."""
    predicted: str | None = None
    """Expectation of the next round if this is right; None if nothing is predicted."""
    change_name: str | None = None
    """Name of the change, `temperature_up`; None if the plan stays."""
    measure: str | None = None
    """The number of the round (a key of `RoundRecord.measures`) that the change should move; None:
    the dev score alone."""
    direction: Literal["up", "down"] | None = None
    """Direction in which it should move; None without a measure."""


def model_name(champion_round: int | None) -> str:
    """Return the model that a round trained in words; None is the base."""
    return "the base model" if champion_round is None else f"round {champion_round}"


class ModelRecord(Frozen):
    """Scores of one model of the campaign, by the goal's metric."""

    metric: Metric = "accuracy"
    """Measure of the next six."""
    score: float
    """On validation, over the goal's slice."""
    interval: tuple[float, float]
    """95 % interval of it."""
    overall: float
    """On validation, over all prompts."""
    test_score: float
    """On test, over all prompts."""
    dev_score: float | None = None
    """Over all dev prompts, which steer the plan; None without any."""
    slices: dict[str, float] = Field(default_factory=dict)
    """`tag=value` → score on validation."""
    pass_at_k: float | None = None
    perplexity: float | None = None
    """Per token of human texts, which guards against collapse."""
    label_accuracy: float | None = None
    """Of classes by the likelihood of their label, over validation prompts; None without classes,
    like the next two."""
    macro_f1: float | None = None
    brier: float | None = None
    """Squared error of the probabilities of the classes, summed over them."""


class RoundRecord(ModelRecord):
    """One line of the campaign's history: a round, and the scores of its candidate."""

    round: int
    verdict: Verdict
    why: str
    level: int = 0
    plan: Plan
    p_value: float | None = None
    generated: int = 0
    accepted: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)
    """Reason → count, over all filters."""
    tokens_generated: int = 0
    tokens_trained: int = 0
    causes: tuple[Cause, ...] = ()
    alarms: tuple[str, ...] = ()
    """Sentences of all that spoke against the candidate."""
    blocked: bool = False
    """An alarm rejected the candidate, better or not."""
    weak: bool = False
    """Too few samples were accepted, so no candidate was trained: the scores are the champion's."""
    measures: dict[str, float] = Field(default_factory=dict)
    """Name of a measure that reflection looked at → value. The next round is compared with it."""
    receipts: dict[str, str] = Field(default_factory=dict)
    """`generate-0`, `select`, `train`, `evaluate` → receipt, as `step/key`; a weak round has no
    training and no evaluation."""


class AlphaAccount(Frozen):
    """The campaign's chance of a false promotion, and what its rounds have spent of it."""

    alpha: float
    """The least `decide.alpha` of all runs of the campaign."""
    planned_rounds: int
    """`decide.max_rounds` of the run that began the campaign."""
    spent: float = 0.0
    """Sum over the rounds that promoted nothing."""


class State(Frozen):
    """The standing of a campaign after a round."""

    schema_version: int = 1
    run_id: str
    # Receipts are named by ref, without the store, so that a copied campaign stays valid.
    prepared: str
    """Ref (`step/key`) of the prepare receipt: base checkpoint and splits."""
    start: str | None = None
    """Ref of the start receipt, which holds the recipe; None in its own state."""
    round: int | None = None
    """Last finished round; None before round 0. 0 from the beginning where the recipe has no
    supervised stage, which leaves round 0 nothing to do."""
    go: bool = True
    stop: StopReason | None = None
    base: ModelRecord | None = None
    """Scores of the base model; None before it is measured, like the next three."""
    base_evaluation: str | None = None
    """Ref of its evaluate receipt."""
    champion: str | None = None
    """Ref of the receipt whose `model/` is the best so far: of train, or of prepare while it is the
    base."""
    champion_evaluation: str | None = None
    """Ref of its evaluate receipt."""
    champion_round: int | None = None
    """Round that trained the champion; None while it is the base."""
    # Against the last round each step of a slow collapse would look harmless. Not against the base
    # for ever: labelled rows may teach it another style, which is no collapse.
    first_evaluation: str | None = None
    """Ref of the evaluate receipt that signs of collapse are measured against: that of the first
    candidate that was promoted, of the base until then."""
    # All rounds teach: to replace samples leads to collapse (2305.17493).
    selections: tuple[str, ...] = ()
    """Refs of the select receipts so far, oldest first: accumulated samples."""
    rounds_without_gain: int = 0
    alpha_account: AlphaAccount | None = None
    """None before the first round is decided."""
    plan: Plan
    history: tuple[RoundRecord, ...] = ()

    @property
    def next_round(self) -> int:
        """Number of the round that begins from this state."""
        return 0 if self.round is None else self.round + 1

    @property
    def receipts(self) -> tuple[str, ...]:
        """Refs of all receipts that it names; some come twice."""
        refs = (
            self.prepared,
            self.start,
            self.champion,
            self.champion_evaluation,
            self.first_evaluation,
            self.base_evaluation,
            *self.selections,
        )
        of_rounds = [ref for record in self.history for ref in record.receipts.values()]
        return (*(ref for ref in refs if ref is not None), *of_rounds)

    @property
    def champion_record(self) -> ModelRecord | None:
        """Scores of the champion; None before the base is measured."""
        for record in self.history:
            if record.round == self.champion_round:
                return record
        return self.base
