"""The command line: its entry, and the verbs that need no cluster.

Exit status: 0 done; 1 ran, but the target was not met or nothing was published; 2 wrong usage,
recipe or input; 3 damaged data; 4 the champion waits for approval; 75 a passing fault, try again.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from components.cli.archive.verbs import add_verbs as add_archive_verbs
from components.cli.builder import Builder, builder_of, program_of
from components.cli.cluster_verbs import add_verbs as add_cluster_verbs
from components.cli.collect.verb import add_verb as add_gc_verb
from components.cli.estimate.verb import add_verb as add_estimate_verb
from components.cli.first_steps.verbs import add_verbs as add_first_verbs
from components.cli.intake.verb import add_verb as add_intake_verb
from components.cli.messages import (
    let_streams_take_any_text,
    print_error,
    print_json,
    print_result,
)
from components.cli.options import (
    AsJson,
    LocalRounds,
    Override,
    RecipeFile,
    StoreUri,
    output_option,
)
from components.cli.release_verbs import add_verbs as add_release_verbs
from components.cli.review_verb import add_verb as add_review_verb
from components.cli.run_verbs import add_verbs as add_run_verbs
from components.cli.stores import default_store, existing_run, open_context, unknown_run
from components.cli.sweep.verb import add_verb as add_sweep_verb
from components.errors import Corrupt, RatchetError, UserError

if TYPE_CHECKING:
    from components.cli.local.docker_runner import Containers
    from components.cli.local.run import Outcome
    from components.cli.verify import Findings
    from components.contracts.recipe import Recipe
    from components.runtime.context import Context

# Verbs import what they need when they run: `--help` must not wait for torch or kfp.


PATH_ERRORS = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


class Verbs(TyperGroup):
    """Ends an expected failure with one red line and its exit status, never with a traceback.

    A question that is answered by Ctrl-C or Ctrl-D ends like any verb that Ctrl-C stops.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except RatchetError as error:
            print_error(str(error))
            raise typer.Exit(error.exit_code) from None
        except PATH_ERRORS as error:
            # Of a path that was given: a file where a folder is meant, or one of somebody else.
            if error.filename is None:
                raise
            print_error(
                f"{os.fsdecode(error.filename)} cannot be used: {error.strerror}"
            )
            raise typer.Exit(UserError.exit_code) from None
        except typer.Abort:
            print_error("stopped; nothing was written")
            raise typer.Exit(128 + signal.SIGINT) from None


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Ratchet makes a language model better in rounds, and promotes a model only when it is "
        "proved better."
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)

Runner = Annotated[
    Literal["process", "docker"],
    typer.Option(help="Run each task as a process of this Python, or in a container."),
]
RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="Run; by default the one begun last.")
]


add_first_verbs(app)


@app.command()
def run(
    command: typer.Context,
    recipe: RecipeFile,
    store: StoreUri = "",
    override: Override = None,
    rounds: LocalRounds = 4,
    resume_from: Annotated[
        str,
        typer.Option(
            metavar="URI", help="Continue from this state, the URI of a decide receipt."
        ),
    ] = "",
    runner: Runner = "process",
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory limit of one container.")
    ] = "8g",
    network: Annotated[
        str, typer.Option(metavar="NAME", help="Docker network of the containers.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Run a campaign on this machine. Started again, it continues where it stopped."""
    from components.cli.checker_code import send_checker_code
    from components.cli.local.local_campaign import LocalCampaign
    from components.cli.local.run import Stopped, run_campaign
    from components.cli.local.static_checks import check_recipe
    from components.cli.needed_packages import require_packages
    from components.cli.shipped_recipes import find_recipe
    from components.contracts.recipe_file import load_recipe

    path = find_recipe(recipe)
    store = store or default_store()
    resolved = load_recipe(path, tuple(override or ()))
    if runner == "process":
        _refuse_container_options(command)
        require_packages(resolved)
    check_recipe(resolved, path, os.environ)
    campaign = LocalCampaign(
        recipe=send_checker_code(resolved, path, store, os.environ),
        store=store,
        rounds=rounds,
        resume_from=resume_from,
        containers=_containers(runner, memory, network, resolved),
    )
    try:
        # Progress goes to standard error, so that a JSON document has standard output for itself.
        outcome = run_campaign(campaign, os.environ, Console(stderr=True))
    except Stopped as stop:
        arguments = shlex.join(sys.argv[1:])
        same_command = f"{program_of(command)} {arguments}"
        print_error(f"stopped; finished steps are kept. Continue with: {same_command}")
        raise typer.Exit(stop.status) from None
    if as_json:
        print_json(_outcome_document(outcome))
    else:
        _print_outcome(Console(), outcome)
    # After the summary: the last line of a terminal is the one that is read.
    if outcome.error:
        print_error(f"{outcome.error} (log: {outcome.log})")
    raise typer.Exit(outcome.exit_code)


def _refuse_container_options(command: typer.Context) -> None:
    """Raise UserError if an option is given that only containers have: it would do nothing."""
    for name in ("memory", "network"):
        source = command.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise UserError(
                f"--{name} is for containers: add --runner docker, or leave it out"
            )


def _containers(
    runner: str, memory: str, network: str, recipe: Recipe
) -> Containers | None:
    """Return the options of the containers; None where tasks are processes."""
    from components.cli.local.docker_runner import Containers
    from components.cli.needed_variables import needs_of

    if runner != "docker":
        return None
    variables = tuple(need.variable for need in needs_of(recipe))
    return Containers(memory, network, variables)


def _outcome_document(outcome: Outcome) -> dict[str, object]:
    from components.report.summary import summary_of

    return {
        **summary_of(outcome.view),
        "exit_code": outcome.exit_code,
        "error": outcome.error,
        "log": str(outcome.log),
        "report": outcome.report,
        "executed": list(outcome.executed),
    }


def _print_outcome(console: Console, outcome: Outcome) -> None:
    from components.cli.show import print_run, print_waiting

    view = outcome.view
    console.print()
    if view.tasks:
        print_run(console, view)
    if view.published is not None:
        console.print(
            Text(f"model  {view.store}/{view.published.prefix}"), soft_wrap=True
        )
    if view.waits_for_approval:
        print_waiting(console, view)
    if outcome.report:
        console.print(Text(f"report {outcome.report}"), soft_wrap=True)
    console.print(Text(f"log    {outcome.log}"), soft_wrap=True)


@app.command(name="carry-out", hidden=True)
def campaign_process(
    command: typer.Context,
    recipe: Annotated[Path, typer.Option()],
    store: Annotated[str, typer.Option()],
    rounds: Annotated[int, typer.Option()],
    resume_from: Annotated[str, typer.Option()],
    folder: Annotated[Path, typer.Option()],
    tasks_file: Annotated[Path, typer.Option()],
    parent: Annotated[int, typer.Option()],
    containers: Annotated[str, typer.Option()] = "",
) -> None:
    """Run the campaign; the process that `run` starts and follows."""
    # Hidden: its options are those that `run` has checked.
    from components.cli.local.campaign_process import carry_out
    from components.cli.local.docker_runner import Containers
    from components.cli.local.local_campaign import LocalCampaign
    from components.contracts.recipe import Recipe

    campaign = LocalCampaign(
        recipe=Recipe.model_validate_json(recipe.read_bytes()),
        store=store,
        rounds=rounds,
        resume_from=resume_from,
        containers=Containers(**json.loads(containers)) if containers else None,
    )
    raise typer.Exit(
        carry_out(builder_of(command), campaign, folder, tasks_file, parent)
    )


add_estimate_verb(app)
add_cluster_verbs(app)
add_release_verbs(app)
add_run_verbs(app)
add_sweep_verb(app)
add_review_verb(app)
add_intake_verb(app)
add_archive_verbs(app)
add_gc_verb(app)


@app.command()
def status(
    run_id: RunId = "latest", store: StoreUri = "", as_json: AsJson = False
) -> None:
    """Show how far a run is: its rounds, tasks and errors."""
    from components.cli.show import print_run, print_waiting
    from components.report.runs import load_run
    from components.report.summary import summary_of

    context = open_context(store)
    view = load_run(context, existing_run(context, run_id))
    if not view.tasks:
        raise unknown_run(context, run_id)
    if as_json:
        print_json(summary_of(view))
    else:
        print_run(Console(), view, tasks=True)
        if view.waits_for_approval:
            print_waiting(Console(), view)


@app.command()
def show(
    target: Annotated[
        str,
        typer.Argument(
            metavar="REF", help="step/key, a receipt's URI or a pointer artifact."
        ),
    ],
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Show a receipt, and the state in it if there is one."""
    from components.cli.show import find_receipt, print_receipt
    from components.contracts.state import STATE_STEPS
    from components.runtime.campaign import read_state
    from components.storage.keys import split_receipt_uri

    # A URI names its store.
    root = split_receipt_uri(target)[0] if "://" in target else store
    context = open_context(root)
    receipt = find_receipt(context, target)
    state = None
    if receipt.step in STATE_STEPS:
        state = read_state(context, receipt)
    if not as_json:
        print_receipt(Console(), receipt, state)
        return
    document = {**receipt.model_dump(mode="json"), "digest": receipt.digest}
    if state is not None:
        document["state"] = state.model_dump(mode="json")
    print_json(document)


@app.command()
def verify(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|REF|release://NAME",
            help="Run, receipt as step/key, or all releases of a name.",
        ),
    ] = "latest",
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Read every object of a run or of a name's releases and compare its size and SHA-256 with the
    receipts.

    Exit status 3 names what is damaged.
    """
    findings = _verify(open_context(store), target)
    verdict = "all as they should be"
    if findings.damaged:
        verdict = f"{len(findings.damaged)} damaged"
    if findings.collected:
        verdict += f"; {len(findings.collected)} collected by gc"
    print_result(
        vars(findings),
        as_json,
        f"{findings.receipts} receipts, {findings.objects} objects, {findings.bytes:,} bytes: "
        f"{verdict}",
    )
    for line in findings.damaged:
        print_error(line)
    if findings.damaged:
        raise typer.Exit(Corrupt.exit_code)


def _verify(context: Context, target: str) -> Findings:
    from components.cli.verify import check_releases, check_run, check_state
    from components.runtime.ledger import RELEASE_SCHEME

    if target.startswith(RELEASE_SCHEME):
        return check_releases(context, target.removeprefix(RELEASE_SCHEME))
    # No run's id has a slash.
    if "/" in target:
        return check_state(context, target)
    return check_run(context, existing_run(context, target))


@app.command()
def report(
    output: Annotated[Path, output_option("FILE", "Write the page to FILE.")],
    run_id: RunId = "latest",
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Write the report of a run as one HTML file that needs nothing else."""
    from components.report.page import EXAMPLES_PER_ROUND, build_page
    from components.report.runs import load_run
    from components.storage.folder import write_file

    context = open_context(store)
    view = load_run(context, existing_run(context, run_id), examples=EXAMPLES_PER_ROUND)
    if not view.tasks:
        raise unknown_run(context, run_id)
    page = build_page(view).encode()
    write_file(output, page)
    document = {"output": str(output), "bytes": len(page), "run_id": view.run_id}
    print_result(document, as_json, f"{output}: {len(page):,} bytes")


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes."""
    from components.contracts.recipe import Recipe

    print_json(Recipe.model_json_schema())


def main(build: Builder, program: str) -> NoReturn:
    """Run the verb that `sys.argv` names, and end the process with its exit status.

    Args:
        build: Makes the pipeline; nothing here imports `pipeline`.
        program: The command that the user typed, for help and messages.
    """
    let_streams_take_any_text()
    sys.exit(app(prog_name=program, obj=build))
