"""The verb that runs a campaign for every combination of settings: sweep."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from components.cli.builder import program_of
from components.cli.messages import print_error, print_json, print_note
from components.cli.options import AsJson, LocalRounds, Override, RecipeFile, StoreUri
from components.cli.stores import default_store
from components.cli.sweep.choices import DiversityName, Quality

if TYPE_CHECKING:
    from components.cli.local.local_campaign import LocalCampaign
    from components.cli.local.run import Outcome
    from components.cli.sweep.grid import Combination


def add_verb(app: typer.Typer) -> None:
    """Make it a verb of the command line."""
    app.command()(sweep)


def sweep(
    command: typer.Context,
    recipe: RecipeFile,
    over: Annotated[
        list[str],
        typer.Option(
            "--over",
            metavar="KEY=VALUE,VALUE",
            help="Values of a key: section.key=value,value. May be repeated.",
        ),
    ],
    override: Override = None,
    rounds: LocalRounds = 4,
    quality: Annotated[
        Quality,
        typer.Option(help="Measure of the front: the champion's, or its samples'."),
    ] = "score",
    diversity: Annotated[
        DiversityName, typer.Option(help="The other one, of answers or of samples.")
    ] = "vendi",
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Run a campaign for every combination of settings, and show which are not beaten.

    Steps that combinations have in common are done once. Started again, it continues where it
    stopped. Nothing is released: `run` with the settings of your choice does that.
    """
    from components.cli.local.run import Stopped
    from components.cli.shipped_recipes import find_recipe
    from components.cli.sweep.grid import axes_of, combinations_of
    from components.cli.sweep.outcomes import exit_code_of_all, swept_run, with_front
    from components.cli.sweep.table import print_swept_runs

    path = find_recipe(recipe)
    store = store or default_store()
    combinations = combinations_of(path, tuple(override or ()), axes_of(over))
    campaigns = _campaigns(combinations, path, store, rounds)
    runs = []
    for number, campaign in enumerate(campaigns):
        combination = combinations[number]
        print_note(
            f"{number + 1} of {len(campaigns)}: {combination.text} ({campaign.recipe.run_id})"
        )
        try:
            outcome = _carried_out(campaign)
        except Stopped as stop:
            arguments = shlex.join(sys.argv[1:])
            same_command = f"{program_of(command)} {arguments}"
            print_error(
                f"stopped; finished steps are kept. Continue with: {same_command}"
            )
            raise typer.Exit(stop.status) from None
        if outcome.error:
            # The others may need none of what failed here.
            print_error(f"{combination.text}: {outcome.error} (log: {outcome.log})")
        runs.append(
            swept_run(combination, outcome.view, outcome.exit_code, outcome.error)
        )
    marked = with_front(runs, quality, diversity)
    if as_json:
        documents = [run.model_dump(mode="json") for run in marked]
        measures = {"quality": quality, "diversity": diversity}
        print_json(
            {"store": campaigns[0].store, "front_by": measures, "runs": documents}
        )
    else:
        words = diversity.replace("_", " ")
        print_swept_runs(Console(), marked, f"{quality} and {words}")
    raise typer.Exit(exit_code_of_all(marked))


def _campaigns(
    combinations: list[Combination], path: Path, store: str, rounds: int
) -> list[LocalCampaign]:
    """Return the campaigns of a sweep. UserError for what shows before any of them begins."""
    from components.cli.checker_code import send_checker_code
    from components.cli.local.local_campaign import LocalCampaign
    from components.cli.local.static_checks import check_recipe
    from components.cli.needed_packages import require_packages

    for combination in combinations:
        require_packages(combination.recipe)
        check_recipe(combination.recipe, path, os.environ)
    return [
        LocalCampaign(
            recipe=send_checker_code(combination.recipe, path, store, os.environ),
            store=store,
            rounds=rounds,
            resume_from="",
            containers=None,
        )
        for combination in combinations
    ]


def _carried_out(campaign: LocalCampaign) -> Outcome:
    from components.cli.local.run import run_campaign

    # Progress goes to standard error, so that a JSON document has standard output for itself.
    return run_campaign(campaign, os.environ, Console(stderr=True))
