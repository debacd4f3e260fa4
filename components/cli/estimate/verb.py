"""The verb `estimate`."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console

from components.cli.messages import print_json, print_note
from components.cli.options import AsJson, LocalRounds, Override, RecipeFile, StoreUri
from components.cli.stores import default_store, existing_run, open_context
from components.errors import UserError

if TYPE_CHECKING:
    from components.cli.estimate.calibration import Calibration
    from components.contracts.recipe import Recipe


def add_verb(app: typer.Typer) -> None:
    """Make it a verb of the command line."""
    app.command()(estimate)


def estimate(
    recipe: RecipeFile,
    store: StoreUri = "",
    override: Override = None,
    rounds: LocalRounds = 4,
    like: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            show_default=False,
            help="Take the rates of this run, wherever it ran.",
        ),
    ] = "",
    trial: Annotated[
        bool,
        typer.Option("--trial", help="Try the recipe out, whatever earlier runs tell."),
    ] = False,
    price: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="NAME=AMOUNT",
            help="A price of machine-hour, core-hour, gpu-hour or million-tokens. May be repeated.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a recipe will cost here, before anything is spent: time, tokens, storage, money.

    The rates are those of an earlier run of the store with the same model and settings, or else of
    a trial of half a minute or more, which stores nothing.
    """
    from components.cli.estimate.forecast import forecast, price_table
    from components.cli.estimate.table import document_of, print_forecast
    from components.cli.local.static_checks import check_recipe
    from components.cli.needed_packages import require_packages
    from components.cli.shipped_recipes import find_recipe
    from components.contracts.recipe_file import load_recipe

    prices = price_table(tuple(price or ()))
    if like and trial:
        raise UserError(
            "--like takes the rates of a run, --trial none: leave out one of them"
        )
    path = find_recipe(recipe)
    resolved = load_recipe(path, tuple(override or ()))
    require_packages(resolved)
    check_recipe(resolved, path, os.environ)
    calibration = _calibration(
        resolved, path, store or default_store(), like, rounds, trial=trial
    )
    plan = forecast(resolved, calibration, rounds)
    if as_json:
        print_json(document_of(resolved, calibration, plan, prices))
    else:
        print_forecast(Console(), resolved, calibration, plan, prices)


def _calibration(
    recipe: Recipe, path: Path, store: str, like: str, rounds: int, *, trial: bool
) -> Calibration:
    """Return the rates of a run, or else of a trial."""
    from components.cli.estimate.begin_trial import try_out
    from components.cli.estimate.earlier_run import (
        calibration_like,
        earlier_calibration,
    )

    context = open_context(store)
    if like:
        return calibration_like(context, existing_run(context, like), recipe)
    if not trial:
        earlier = earlier_calibration(context, recipe, platform.node())
        if earlier is not None:
            return earlier
    print_note("trying the recipe out: half a minute, of a large model more")
    return try_out(context, recipe, path, rounds, os.environ)
