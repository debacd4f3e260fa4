"""A forecast as a table for people, and as a document for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.cli.estimate.calibration import Calibration, Cost
from components.cli.estimate.forecast import Forecast, Line, money_of, rounds_within
from components.contracts.recipe import Recipe
from components.report.words import seconds_text


def document_of(
    recipe: Recipe,
    calibration: Calibration,
    plan: Forecast,
    prices: Mapping[str, float],
) -> dict[str, object]:
    """Return a forecast as one JSON document."""

    def totals(cost: Cost) -> dict[str, object]:
        hours = cost.seconds / 3600
        document: dict[str, object] = {
            **cost.model_dump(),
            "core_hours": hours * calibration.cores,
            "gpu_hours": hours * calibration.gpus,
            "money": money_of(cost, calibration, prices) if prices else None,
        }
        return document

    return {
        "run_id": recipe.run_id,
        "calibration": {
            "source": calibration.source,
            "run_id": calibration.run_id,
            "uncertainty": calibration.uncertainty,
            "cores": calibration.cores,
            "gpus": calibration.gpus,
        },
        "rounds": plan.num_rounds,
        "before_rounds": [_line_document(line) for line in plan.before],
        "each_round": [_line_document(line) for line in plan.each_round],
        "after_rounds": [_line_document(line) for line in plan.after],
        "least": totals(plan.least),
        "most": totals(plan.most),
        "rounds_within_budget": rounds_within(recipe, plan),
        "not_known": list(_unknowns(recipe, calibration, plan)),
    }


def _line_document(line: Line) -> dict[str, object]:
    return {"task": line.task, **line.cost.model_dump()}


def print_forecast(
    console: Console,
    recipe: Recipe,
    calibration: Calibration,
    plan: Forecast,
    prices: Mapping[str, float],
) -> None:
    """Print a forecast: its tasks, its totals, and what is not known."""
    table = Table(box=None, pad_edge=False)
    table.add_column("task")
    for title in ("time", "tokens trained", "tokens sampled", "stored"):
        table.add_column(title, justify="right")
    _add_lines(table, plan.before)
    if plan.num_rounds:
        table.add_row(Text("each round", style="bold"))
        _add_lines(table, plan.each_round, indent="  ")
    _add_lines(table, plan.after)
    table.add_section()
    if plan.num_rounds > 1:
        _add_row(table, "in all, 1 round", plan.least, style="bold")
    word = "round" if plan.num_rounds == 1 else "rounds"
    _add_row(table, f"in all, {plan.num_rounds} {word}", plan.most, style="bold")
    console.print(table)
    console.print()
    for sentence in _sentences(recipe, calibration, plan, prices):
        console.print(Text(sentence), soft_wrap=True)
    for sentence in _unknowns(recipe, calibration, plan):
        console.print(Text(f"not known: {sentence}", style="dim"), soft_wrap=True)


def _add_lines(table: Table, lines: Sequence[Line], indent: str = "") -> None:
    for line in lines:
        _add_row(table, f"{indent}{line.task}", line.cost)


def _add_row(table: Table, name: str, cost: Cost, style: str = "") -> None:
    table.add_row(
        name,
        seconds_text(cost.seconds),
        f"{cost.tokens_trained:,.0f}" if cost.tokens_trained else "",
        f"{cost.tokens_sampled:,.0f}" if cost.tokens_sampled else "",
        bytes_text(cost.stored_bytes) if cost.stored_bytes else "",
        style=style,
    )


def bytes_text(count: float) -> str:
    """Return a size as `3.1 MB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def price_text(amount: float) -> str:
    """Return a sum of money with two decimals, or two digits of a small one."""
    return f"{amount:,.2f}" if amount >= 1 or not amount else f"{amount:.2g}"


def _sentences(
    recipe: Recipe,
    calibration: Calibration,
    plan: Forecast,
    prices: Mapping[str, float],
) -> Iterator[str]:
    """Yield what a person asks beside the table."""
    origin = "a trial on this machine"
    if calibration.source == "earlier run":
        origin = f"the tasks of run {calibration.run_id}"
    yield (
        f"Rates from {origin}; totals within about {100 * calibration.uncertainty:.0f} % where "
        "nothing else keeps the machine busy."
    )
    hours = plan.most.seconds / 3600
    devices = f"{hours * calibration.cores:.2g} core hours ({calibration.cores} cores)"
    if calibration.gpus:
        devices += (
            f", {hours * calibration.gpus:.2g} GPU hours ({calibration.gpus} GPUs)"
        )
    yield f"At most {devices}."
    if prices:
        least = money_of(plan.least, calibration, prices)
        most = money_of(plan.most, calibration, prices)
        yield f"Price: {price_text(least)} for one round, {price_text(most)} for all."
    yield from _about_budget(recipe, plan)


def _about_budget(recipe: Recipe, plan: Forecast) -> Iterator[str]:
    """Yield what becomes of the recipe's budget, if it has one."""
    budget = recipe.decide.budget
    if budget.minutes is None and budget.tokens is None:
        return
    number = rounds_within(recipe, plan)
    if number is None:
        yield "decide.budget suffices for all rounds."
        return
    yield (
        f"decide.budget ends the campaign after round {number}: a round is begun where one that "
        "costs as much as the last fits once more."
    )


def _unknowns(
    recipe: Recipe, calibration: Calibration, plan: Forecast
) -> Iterator[str]:
    """Yield what no trial can tell, and what this one has left out."""
    if plan.num_rounds > 1:
        yield (
            "when the rounds end: the goal, decide.patience or two alarms may end them after any "
            "round"
        )
    if plan.num_rounds:
        yield (
            "how many samples are accepted: a round with too few (select.min_accepted) trains "
            "nothing; how long answers become, and whether early stopping ends a training"
        )
    if recipe.data.ladder is not None:
        yield "the lengths that the ladder climbs to: all rounds are taken to be like the first"
    yield from calibration.gaps
