"""Two runs side by side: what their recipes ask for differently, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, JsonValue

from components.report.summary import RunSummary, summary_of
from components.report.views import RunView

_OUTCOMES = (
    "status",
    "metric",
    "base_score",
    "champion_score",
    "base_test_score",
    "champion_test_score",
    "champion_round",
    "stop",
    "wall_seconds",
)
"""Fields of a run's summary that tell how it ended, in the order in which a person asks."""


class Difference(BaseModel):
    """A key that two runs have different values of; None where one has none."""

    key: str
    first: JsonValue
    second: JsonValue


class Differences(BaseModel):
    """How two runs differ."""

    first: str
    """Name of a run, like the next."""
    second: str
    recipe: list[Difference]
    """Keys of the recipe as `section.key`; all keys are there, those left to their default too."""
    outcome: list[Difference]
    """Fields of the runs' summaries, equal ones too."""


def differences_of(first: RunView, second: RunView) -> Differences:
    """Return what two runs were asked for differently, and both outcomes."""
    return Differences(
        first=first.run_id,
        second=second.run_id,
        recipe=list(_recipe_differences(_recipe_keys(first), _recipe_keys(second))),
        outcome=list(_outcomes(summary_of(first), summary_of(second))),
    )


def _recipe_keys(view: RunView) -> dict[str, JsonValue]:
    document = view.recipe.model_dump(mode="json") if view.recipe is not None else {}
    return dict(_flat(document))


def _flat(value: JsonValue, key: str = "") -> Iterator[tuple[str, JsonValue]]:
    """Yield each leaf of a JSON document with its path, as `--set` spells it."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _flat(child, f"{key}.{name}" if key else name)
    # An empty list is a value like others; a list of sources is looked into.
    elif isinstance(value, list) and value:
        for index, child in enumerate(value):
            yield from _flat(child, f"{key}.{index}")
    else:
        yield key, value


def _recipe_differences(
    first: dict[str, JsonValue], second: dict[str, JsonValue]
) -> Iterator[Difference]:
    # Not sorted: sections stand in the order in which the loop uses them.
    for key in dict.fromkeys([*first, *second]):
        if first.get(key) != second.get(key):
            yield Difference(key=key, first=first.get(key), second=second.get(key))


def _outcomes(first: RunSummary, second: RunSummary) -> Iterator[Difference]:
    for key in _OUTCOMES:
        yield Difference(key=key, first=first[key], second=second[key])
