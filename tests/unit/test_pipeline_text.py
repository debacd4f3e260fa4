"""Text of a recipe that looks like a placeholder is text, on its way through the pipeline too."""

from __future__ import annotations

from typing import Any

import pytest

from components.contracts.recipe.pipeline_text import pipeline_document, recipe_document
from components.contracts.recipe_file import parse_recipe
from components.prepare.step import PrepareInputs, resolve_recipe
from tests.unit.crafted import recipe_of

TEXTS = [
    "Explain what {{$.inputs.parameters['lr']}} means in Kubeflow.",
    "{{$}}",
    "{{$.pipeline_job_uuid}}",
    "{{$.outputs.output_file}}",
    "{{workflow.name}} and {{ inputs.parameters.x }}",
    "{{{$}}} {{{{",
    "{{=1+1}}",
    "\\frac{{a}}{b} {",
    "{\u2060{ and {\u2060\u2060{",
    '{"Concat": ["a", "{{$.json_escape[1]}}"]}',
    "{{$.inputs.artifacts['x'].uri}}",
]


def recipe_with_text(text: str) -> dict[str, Any]:
    document = recipe_of().model_dump(mode="json", exclude_none=True)
    document["model"] = {"source": f"file:///{text}/m", "system_prompt": text}
    document["generate"]["engine"] = "openai"
    parameters = {"stop": [text, None, 1], text: None, "deep": {"x": None, text: text}}
    document["generate"]["endpoint"] = {"model": "m", "parameters": parameters}
    return document


@pytest.mark.parametrize("text", TEXTS)
def test_braces_and_nulls_of_a_recipe_come_through_the_pipelines_parameter(
    text: str,
) -> None:
    recipe = parse_recipe(recipe_with_text(text))
    parameter = pipeline_document(recipe)
    assert "{{" not in repr(parameter)
    assert "None" not in repr(parameter)
    resolved = resolve_recipe(PrepareInputs(parameter, {}, resume_from="", job_id=""))
    assert resolved == recipe


def test_a_recipe_that_a_person_typed_into_the_form_is_left_as_it_is() -> None:
    document = recipe_with_text("{{$}}")
    assert recipe_document(document) == document


def test_a_recipe_without_braces_is_readable_in_the_form() -> None:
    recipe = recipe_of()
    assert pipeline_document(recipe) == recipe.model_dump(
        mode="json", exclude_none=True
    )
