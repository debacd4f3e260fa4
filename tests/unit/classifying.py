"""Prompts of a classification, and what a tiny model makes of them."""

from __future__ import annotations

from pathlib import Path

from components.contracts.recipe import Recipe
from components.contracts.rows import Prompt, Result, prompt_id
from components.measures import ClassChoice, class_choice
from components.modeling.labels import label_probabilities
from components.publish.comparison import results_of
from components.runtime.context import Context
from tests.unit.tiny import save_tiny, tiny_model


def classes(*labels: str) -> list[Prompt]:
    return [
        Prompt(
            id=prompt_id(f"{number}"),
            text=f"{number}+{number}=",
            verifier="exact",
            reference={"answer": label},
            tags={"label": label},
        )
        for number, label in enumerate(labels)
    ]


def measured_choices(
    context: Context, recipe: Recipe, prompts: list[Prompt], folder: Path
) -> tuple[list[Result], list[ClassChoice]]:
    """Results of a tiny model on the test split, as a release measures them, and its choices among
    the classes 1, 2 and 3 by their probabilities alone."""
    checkpoint = save_tiny(folder / "model", seed=4)
    measured = results_of(context, recipe, checkpoint, prompts, "test")
    model, codec = tiny_model(seed=4)
    asked = [prompt.text for prompt in prompts]
    chances = label_probabilities(model, codec, asked, ["1", "2", "3"], 64)
    return measured, [
        class_choice(["1", "2", "3"], row_chances, prompt.tags["label"])
        for prompt, row_chances in zip(prompts, chances, strict=True)
    ]
