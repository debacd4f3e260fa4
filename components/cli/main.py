"""The command line: `python pipeline.py VERB`.

Exit status: 0 done; 1 ran, but the target was not met or nothing was published; 2 wrong usage,
recipe or input; 3 damaged data; 75 a passing fault, try again.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from components.cli.builder import Builder, builder_of
from components.cli.cluster_verbs import add_verbs as add_cluster_verbs
from components.cli.options import AsJson, Override, RecipeFile, StoreUri, fail, print_json, say
from components.errors import Corrupt, RatchetError, UserError


class Verbs(TyperGroup):
    """Ends an expected failure with one red line and its exit status, never with a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except RatchetError as error:
            fail(str(error))
            raise typer.Exit(error.exit_code) from None


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Ratchet makes a language model better in rounds, and promotes a model only when it is proved better.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

LocalRounds = Annotated[int, typer.Option(min=0, max=16, help="Rounds unrolled into the pipeline.")]
Runner = Annotated[
    Literal["process", "docker"],
    typer.Option(help="Each task as a process of this Python, or in a container."),
]
RunId = Annotated[
    str, typer.Argument(metavar="[RUN_ID]", help="A run; by default the one begun last.")
]


@app.command()
def run(
    recipe: RecipeFile,
    store: StoreUri = "",
    override: Override = None,
    rounds: LocalRounds = 4,
    resume_from: Annotated[
        str, typer.Option(metavar="URI", help="State (decide receipt) to go on from.")
    ] = "",
    runner: Runner = "process",
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Limit of one container.")] = "8g",
    network: Annotated[
        str, typer.Option(metavar="NAME", help="Docker network of the containers.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Carry out a campaign on this machine. Started again, it continues where it was."""
    from components.cli.local.docker_runner import Containers
    from components.cli.local.run import Stopped, run_recipe
    from components.cli.show import print_run
    from components.contracts.recipe_file import load_recipe
    from components.report.summary import summary_of

    resolved = load_recipe(recipe, tuple(override or ()))
    containers = Containers(memory, network) if runner == "docker" else None
    try:
        done = run_recipe(
            resolved,
            store or default_store(),
            rounds,
            resume_from,
            os.environ,
            Console(stderr=True),
            containers,
        )
    except Stopped as stop:
        again = shlex.join(["python", "pipeline.py", *sys.argv[1:]])
        fail(f"stopped; finished steps are kept. Continue with: {again}")
        raise typer.Exit(stop.status) from None
    if as_json:
        extra = {
            "exit_code": done.exit_code,
            "error": done.error,
            "log": str(done.log),
            "report": done.report,
        }
        print_json({**summary_of(done.view), **extra, "executed": list(done.executed)})
    else:
        console = Console()
        console.print()
        if done.view.tasks:
            print_run(console, done.view)
        if done.view.published is not None:
            console.print(
                Text(f"model  {done.view.store}/{done.view.published.prefix}"),
                soft_wrap=True,
            )
        if done.report:
            console.print(Text(f"report {done.report}"), soft_wrap=True)
        console.print(Text(f"log    {done.log}"), soft_wrap=True)
    if done.error:
        fail(f"{done.error} (log: {done.log})")
    raise typer.Exit(done.exit_code)


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
    """The process that `run` starts and follows."""
    from components.cli.local.campaign_process import carry_out
    from components.cli.local.docker_runner import Containers

    how = Containers(**json.loads(containers)) if containers else None
    build = builder_of(command)
    status = carry_out(build, recipe, store, rounds, resume_from, folder, tasks_file, how, parent)
    raise typer.Exit(status)


add_cluster_verbs(app)


@app.command()
def status(run_id: RunId = "latest", store: StoreUri = "", as_json: AsJson = False) -> None:
    """Show how far a run is: its rounds, tasks and errors."""
    from components.cli.show import print_run
    from components.report.runs import load_run
    from components.report.summary import summary_of

    context = open_context(store)
    view = load_run(context, known_run(context, run_id))
    if not view.tasks:
        raise UserError(f"{context.store.root} knows no run {run_id!r}")
    if as_json:
        print_json(summary_of(view))
    else:
        print_run(Console(), view, tasks=True)


@app.command()
def show(
    target: Annotated[
        str, typer.Argument(metavar="REF", help="step/key, a receipt's URI or a pointer artifact.")
    ],
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Show a receipt, and the state in it if there is one."""
    from components.cli.show import find_receipt, print_receipt
    from components.contracts.artifacts import STATE
    from components.contracts.state import STATE_STEPS, State
    from components.runtime.receipts import fetch
    from components.storage.keys import split_receipt_uri

    root = split_receipt_uri(target)[0] if "://" in target else store
    context = open_context(root)
    receipt = find_receipt(context, target)
    state = None
    if receipt.step in STATE_STEPS:
        state = State.model_validate_json(fetch(context, receipt, STATE).read_bytes())
    if as_json:
        shown = {**receipt.model_dump(mode="json"), "digest": receipt.digest}
        print_json({**shown, "state": state.model_dump(mode="json")} if state else shown)
    else:
        print_receipt(Console(), receipt, state)


@app.command()
def verify(
    target: Annotated[
        str, typer.Argument(metavar="[RUN_ID|REF]", help="A run, or a receipt as step/key.")
    ] = "latest",
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Read all that a run rests on and compare sizes and SHA-256. Exit status 3 names what is
    damaged."""
    from components.cli.verify import check, receipts_of_run, receipts_of_state

    context = open_context(store)
    one = "/" in target
    refs = (
        receipts_of_state(context, target)
        if one
        else receipts_of_run(context, known_run(context, target))
    )
    found = check(context, refs, whole_run=not one)
    text = f"{found.receipts} receipts, {found.objects} objects, {found.bytes:,} bytes: "
    say(
        vars(found),
        as_json,
        text + (f"{len(found.damaged)} damaged" if found.damaged else "all as they should be"),
    )
    for line in found.damaged:
        fail(line)
    if found.damaged:
        raise typer.Exit(Corrupt.exit_code)


@app.command()
def report(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Where the page goes.")
    ],
    run_id: RunId = "latest",
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Write the report of a run: one HTML file that needs nothing else."""
    from components.report.page import EXAMPLES_PER_ROUND, build_page
    from components.report.runs import load_run

    context = open_context(store)
    view = load_run(context, known_run(context, run_id), examples=EXAMPLES_PER_ROUND)
    if not view.tasks:
        raise UserError(f"{context.store.root} knows no run {run_id!r}")
    page = build_page(view).encode()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(page)
    say(
        {"output": str(output), "bytes": len(page), "run_id": view.run_id},
        as_json,
        f"{output}: {len(page):,} bytes",
    )


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes."""
    from components.contracts.recipe import Recipe

    print_json(Recipe.model_json_schema())


def default_store() -> str:
    """The store of this folder."""
    return (Path.cwd() / ".ratchet" / "store").as_uri()


def open_context(store: str) -> Any:
    """The surroundings of a verb that reads a store."""
    from components.cli.local.run import surroundings
    from components.runtime.context import make_context
    from components.storage import keys

    root = keys.canonical_root(store or default_store())
    return make_context(root, surroundings(root, os.environ))


def known_run(context: Any, run_id: str) -> str:
    """The run's id itself, or that of the run begun last. UserError in an empty store."""
    from components.report.runs import latest_run_id

    found = latest_run_id(context) if run_id == "latest" else run_id
    if found is None:
        raise UserError(
            f"{context.store.root} holds no run yet; `run RECIPE` makes one, or pass --store"
        )
    return found


def main(build: Builder) -> None:
    """Entry of `python pipeline.py`, which hands its builder over."""
    app(prog_name="python pipeline.py", obj=build)
