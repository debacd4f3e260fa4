"""Recipe keys that are parameters of the compiled pipeline too: fields of Kubeflow's form."""

from __future__ import annotations

from pydantic import JsonValue

from components.canonical import JsonObject
from components.contracts.recipe.recipe import Recipe

PARAMETER_KEYS = {
    "seed": "seed",
    "threshold": "decide.goal.threshold",
    "max_rounds": "decide.max_rounds",
    "patience": "decide.patience",
    "prompts_per_round": "generate.prompts_per_round",
    "samples_per_prompt": "generate.samples_per_prompt",
    "temperature": "generate.temperature",
    "learning_rate": "train.rounds.learning_rate",
    "labelled_share": "select.labelled_share",
}
"""Parameter of the pipeline → recipe key."""


def parameter_values(recipe: Recipe) -> JsonObject:
    """Return recipe key → value of everything that is a parameter of the pipeline too."""
    document = recipe.model_dump(mode="json")
    return {key: _value_at(document, key) for key in PARAMETER_KEYS.values()}


def _value_at(document: JsonObject, key: str) -> JsonValue:
    value: JsonValue = document
    for name in key.split("."):
        if not isinstance(value, dict):
            raise KeyError(key)
        value = value[name]
    return value
