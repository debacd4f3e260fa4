"""Bounded changes of single settings of a plan."""

from __future__ import annotations

from typing import Literal

from components.contracts.recipe import (
    LayersSection,
    LayerStructure,
    LoraSection,
    LoraStructure,
    Recipe,
)
from components.contracts.state import Plan, base_plan

RegularisingChange = Literal[
    "noise_up",
    "word_dropout_up",
    "dropout_up",
    "dropout_down",
    "kl_beta_up",
    "batch_size_up",
    "patience_up",
    "patience_down",
]
"""Changes of what holds a training back."""
StructureChange = Literal[
    "structure_up",
    "structure_down",
    "layers_up",
    "layers_down",
    "trained_layers_up",
    "trained_layers_down",
]
"""Changes of what is trained."""
Change = (
    Literal[
        "learning_rate_down",
        "learning_rate_up",
        "steps_up",
        "steps_down",
        "temperature_up",
        "temperature_down",
        "weight_decay_up",
        "labelled_share_up",
        "labelled_share_down",
        "samples_up",
        "vote_share_up",
        "answer_tokens_up",
    ]
    | RegularisingChange
    | StructureChange
)
"""Changes that reflection may ask for. Each is one bounded step of one setting."""

CHANGEABLE_SETTINGS = (
    "learning_rate",
    "steps",
    "weight_decay",
    "temperature",
    "samples_per_prompt",
    "labelled_share",
    "lora",
    "min_vote_share",
    "max_new_tokens",
    "neftune_alpha",
    "dropout",
    "kl_beta",
    "batch_size",
    "early_stopping_patience",
    "layers",
    "word_dropout",
)
SettingValue = float | LoraStructure | LayerStructure | None


def changed_setting(
    plan: Plan, recipe: Recipe, change: Change
) -> tuple[str, SettingValue]:
    """Return (setting, new value) of a change; the old value if the setting is at its bound.

    Bounds are relative to the recipe as the person wrote it: learning rate 0.1 to 4 times, steps a
    quarter to 4 times, weight decay up to 16 times (0.1 where the recipe has less), answers up to 4
    times as long (and no longer than train.max_length); temperature 0.1 to 1.5, labelled share 0.25
    to 0.9, samples up to 64, vote share up to 0.9, noise on embeddings up to 10, dropout up to 0.5,
    the weight of the divergence from the base up to 0.1, batches and patience up to 4 times (and
    patience no less than 1). The bounds of the trained structure are in the recipe; the rank of
    adapters is halved down to a quarter of the recipe's. The bound of word dropout is there too; a
    recipe without `train.rounds.augmentation` never gets any.
    """
    base = base_plan(recipe)
    match change:
        case "learning_rate_down":
            lowest_rate = 0.1 * base.learning_rate
            learning_rate = _down(
                plan.learning_rate, 0.5 * plan.learning_rate, lowest_rate
            )
            return "learning_rate", learning_rate
        case "learning_rate_up":
            highest_rate = min(1.0, 4 * base.learning_rate)
            learning_rate = _up(
                plan.learning_rate, 2 * plan.learning_rate, highest_rate
            )
            return "learning_rate", learning_rate
        case "steps_down":
            fewer_steps = round(0.67 * plan.steps)
            fewest_steps = max(1, base.steps // 4)
            return "steps", int(_down(plan.steps, fewer_steps, fewest_steps))
        case "steps_up":
            more_steps = round(1.5 * plan.steps)
            return "steps", int(_up(plan.steps, more_steps, 4 * base.steps))
        case "temperature_down":
            # Greedy sampling in the recipe is on purpose: only a lack of diversity moves it, and
            # that asks for a higher temperature.
            coldest = plan.temperature if base.temperature == 0.0 else 0.1
            colder = round(plan.temperature - 0.2, 6)
            return "temperature", _down(plan.temperature, colder, coldest)
        case "temperature_up":
            # Rounded: sums of 0.2 would show as 0.8999999999999999 in cards and step keys.
            hotter = round(plan.temperature + 0.2, 6)
            return "temperature", _up(plan.temperature, hotter, 1.5)
        case "weight_decay_up":
            # A recipe without weight decay has nothing to double: begin at 0.01.
            decay = max(0.01, 2 * plan.weight_decay)
            highest_decay = max(0.1, 16 * base.weight_decay)
            return "weight_decay", _up(plan.weight_decay, decay, highest_decay)
        case "labelled_share_up" | "labelled_share_down" if recipe.select.union:
            # The rows themselves decide: no share is set that could change.
            return "labelled_share", plan.labelled_share
        case "labelled_share_up":
            larger_share = round(plan.labelled_share + 0.1, 6)
            return "labelled_share", _up(plan.labelled_share, larger_share, 0.9)
        case "labelled_share_down":
            # Replacing labelled rows leads to collapse (2305.17493). The floor is our own: no
            # source gives one.
            smaller_share = round(plan.labelled_share - 0.1, 6)
            return "labelled_share", _down(plan.labelled_share, smaller_share, 0.25)
        case "vote_share_up":
            vote_share = plan.min_vote_share
            if vote_share is None:
                vote_share = recipe.select.min_vote_share
            stricter = max(0.5, round(vote_share + 0.2, 6))
            return "min_vote_share", _raised(
                plan.min_vote_share, vote_share, stricter, 0.9
            )
        case "answer_tokens_up":
            # An answer that is longer than a training row could never be learned whole.
            in_recipe = recipe.generate.max_new_tokens
            limit = plan.max_new_tokens or in_recipe
            highest = min(4 * in_recipe, recipe.train.max_length)
            longer = _raised(plan.max_new_tokens, limit, 2 * limit, highest)
            return "max_new_tokens", None if longer is None else int(longer)
        case "samples_up":
            # Twice as many samples take twice as long; beyond 64 new ones are rare.
            samples = _up(plan.samples_per_prompt, 2 * plan.samples_per_prompt, 64)
            return "samples_per_prompt", int(samples)
        case "structure_up" | "structure_down":
            return "lora", _changed_adapters(plan.lora, recipe.train.lora, change)
        case "layers_up" | "layers_down" | "trained_layers_up" | "trained_layers_down":
            return "layers", _changed_layers(plan.layers, recipe.train.layers, change)
        case _:
            return _regularised(plan, recipe, change)


def _regularised(
    plan: Plan, recipe: Recipe, change: RegularisingChange
) -> tuple[str, float | None]:
    """Return (setting, new value) of a change of what holds a training back."""
    match change:
        case "noise_up":
            alpha = plan.neftune_alpha
            if alpha is None:
                alpha = recipe.train.neftune_alpha
            # 5 is the least that the authors of NEFTune tried (2310.05914).
            noisier = max(5.0, 2 * alpha)
            return "neftune_alpha", _raised(plan.neftune_alpha, alpha, noisier, 10.0)
        case "word_dropout_up":
            augmentation = recipe.train.rounds.augmentation
            if augmentation is None:
                return "word_dropout", plan.word_dropout
            share = plan.word_dropout
            if share is None:
                share = augmentation.word_dropout
            larger_share = round(share + 0.1, 6)
            bound = augmentation.max_word_dropout
            return "word_dropout", _raised(
                plan.word_dropout, share, larger_share, bound
            )
        case "dropout_up":
            dropout = recipe.train.dropout if plan.dropout is None else plan.dropout
            more_dropout = round(dropout + 0.1, 6)
            return "dropout", _raised(plan.dropout, dropout, more_dropout, 0.5)
        case "dropout_down":
            dropout = recipe.train.dropout if plan.dropout is None else plan.dropout
            less_dropout = max(0.0, round(dropout - 0.1, 6))
            return "dropout", plan.dropout if less_dropout == dropout else less_dropout
        case "kl_beta_up":
            # The other methods hold the model near a reference by themselves.
            if recipe.train.method != "sft":
                return "kl_beta", plan.kl_beta
            beta = recipe.train.kl_beta if plan.kl_beta is None else plan.kl_beta
            nearer = max(0.01, 2 * beta)
            return "kl_beta", _raised(plan.kl_beta, beta, nearer, 0.1)
        case "batch_size_up":
            # Twice the recipe's is a multiple of the number of processes too.
            in_recipe = recipe.train.batch_size
            batch_size = plan.batch_size or in_recipe
            larger = _raised(plan.batch_size, batch_size, 2 * batch_size, 4 * in_recipe)
            return "batch_size", None if larger is None else int(larger)
        case "patience_up":
            in_recipe = recipe.train.early_stopping_patience
            patience = plan.early_stopping_patience or in_recipe
            planned = plan.early_stopping_patience
            longer = _raised(planned, patience, 2 * patience, 4 * in_recipe)
            return "early_stopping_patience", None if longer is None else int(longer)
        case "patience_down":
            patience = (
                plan.early_stopping_patience or recipe.train.early_stopping_patience
            )
            shorter = max(1, patience // 2)
            planned = plan.early_stopping_patience
            return (
                "early_stopping_patience",
                planned if shorter == patience else shorter,
            )


def _up(value: float, target: float, highest: float) -> float:
    """Return `target`, but not beyond `highest`; a value already beyond it stays."""
    return max(value, min(target, highest))


def _down(value: float, target: float, lowest: float) -> float:
    """Return `target`, but not below `lowest`; a value already below it stays."""
    return min(value, max(target, lowest))


def _raised(
    planned: float | None, value: float, target: float, highest: float
) -> float | None:
    """Return `_up` of a setting that the plan need not hold.

    Args:
        planned: Value in the plan; None if it is the recipe's.
        value: Value in effect.
        target: Value to go to.
        highest: Bound.
    """
    raised = _up(value, target, highest)
    return planned if raised == value else raised


def _grown(structure: LoraStructure, bounds: LoraSection) -> LoraStructure:
    """Return a structure with twice the rank; at the highest rank, twice the unfrozen layers."""
    # First the rank: it adds far fewer parameters than a layer that is trained in full.
    if structure.rank < bounds.max_rank:
        rank = min(2 * structure.rank, bounds.max_rank)
        return structure.model_copy(update={"rank": rank})
    layers = structure.unfrozen_layers
    twice_as_many = max(1, 2 * layers)
    more_layers = _up(layers, twice_as_many, bounds.max_unfrozen_layers)
    return structure.model_copy(update={"unfrozen_layers": int(more_layers)})


def _changed_adapters(
    structure: LoraStructure | None, bounds: LoraSection | None, change: StructureChange
) -> LoraStructure | None:
    """Return a larger structure, or half the rank and no less than a quarter of the recipe's."""
    if structure is None or bounds is None:
        return structure
    if change == "structure_up":
        return _grown(structure, bounds)
    half = structure.rank // 2
    lowest = max(1, bounds.rank // 4)
    return structure.model_copy(
        update={"rank": int(_down(structure.rank, half, lowest))}
    )


def _changed_layers(
    layers: LayerStructure | None, bounds: LayersSection | None, change: StructureChange
) -> LayerStructure | None:
    """Return another depth, or another number of trained layers, within the recipe's bounds."""
    if layers is None or bounds is None:
        return layers
    extra = layers.extra
    trained = layers.trained
    match change:
        case "layers_up":
            extra = int(_up(extra, extra + 1, bounds.max_extra))
        case "layers_down":
            # Without inserted layers there would be nothing to train.
            lowest = 1 if trained == "inserted" else bounds.min_extra
            extra = int(_down(extra, extra - 1, lowest))
        case "trained_layers_up" if isinstance(trained, int):
            trained = int(_up(trained, 2 * trained, bounds.max_trained))
        case "trained_layers_down" if isinstance(trained, int):
            trained = max(1, trained // 2)
        case _:
            return layers
    return LayerStructure(extra=extra, trained=trained)


def setting_text(name: str, value: SettingValue) -> str:
    """Return a setting's value as a person would write it."""
    if value is None:
        return "none" if name in ("lora", "layers") else "as in the recipe"
    return f"{value:g}" if isinstance(value, int | float) else str(value)
