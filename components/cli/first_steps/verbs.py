"""The verbs `init`, `samples` and `try`."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from components.cli.builder import program_of
from components.cli.messages import print_error, print_json, print_note
from components.cli.options import AsJson, StoreUri
from components.errors import UserError
from components.storage.folder import write_file

PromptField = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        show_default=False,
        help="Column of the questions, if its name is unusual.",
    ),
]
CompletionField = Annotated[
    str, typer.Option(metavar="NAME", show_default=False, help="Column of the answers.")
]


def add_verbs(app: typer.Typer) -> None:
    """Make them verbs of the command line."""
    app.command()(init)
    app.command()(samples)
    app.command(name="try")(try_)


def init(
    command: typer.Context,
    output: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="Recipe to write.")
    ] = Path("recipe.yaml"),
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Labelled rows: CSV, JSONL, Parquet, …",
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            show_default=False,
            help="A folder, hf://org/name@revision, a .gguf file, or scratch.",
        ),
    ] = "",
    check: Annotated[
        str,
        typer.Option(
            metavar="CHECK",
            show_default=False,
            help="exact, numeric, math, choice, votes, or file.py:function of your own.",
        ),
    ] = "",
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME", show_default=False, help="By default after the file."
        ),
    ] = "",
    prompt_field: PromptField = "",
    completion_field: CompletionField = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite a recipe.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a first recipe for your own file. Asks for what is not given."""
    import yaml

    from components.cli.first_steps.answers import (
        require_check,
        require_data,
        require_model,
    )
    from components.cli.first_steps.new_recipe import Wishes, name_of, new_recipe
    from components.cli.local.static_checks import check_recipe
    from components.contracts.recipe.section import NAME_PATTERN
    from components.contracts.recipe_file import NAME_PATTERN_IN_WORDS, parse_recipe

    if output.exists() and not force:
        raise UserError(f"{output} exists; give another name, or --force")
    data = data or _asked("--data", "File with questions and answers", require_data)
    model = model or _asked(
        "--model", "Model (folder, hf://org/name@revision, or scratch)", require_model
    )
    check = check or _asked(
        "--check",
        "Check (exact, numeric, math, choice, votes, file.py:name)",
        require_check,
    )
    if name and not re.fullmatch(NAME_PATTERN, name):
        raise UserError(
            f"--name {name}: use {NAME_PATTERN_IN_WORDS}, such as {name_of(name)}"
        )
    name = name or name_of(data)
    wishes = Wishes(data, model, check, name, _fields(prompt_field, completion_field))
    recipe = new_recipe(wishes, os.environ)
    warnings = [recipe.warning] if recipe.warning else []
    try:
        # As `run` looks at it: a model that is not there is told before the recipe is written.
        check_recipe(
            parse_recipe(yaml.safe_load(recipe.text), str(output)), output, os.environ
        )
    except UserError as error:
        # A checker may be written later, or need `reference_fields`, which are set in the recipe.
        if ":" not in check:
            raise
        warnings.append(f"`run` does not take this recipe yet: {error}")
    write_file(output, recipe.text.encode())
    for warning in warnings:
        print_note(f"warning: {warning}", "yellow")
    if as_json:
        print_json(
            {
                "recipe": str(output),
                "rows": dict(recipe.counts),
                "rejected_rows": dict(recipe.rejected),
                "outlook": recipe.outlook,
                "warnings": warnings,
            }
        )
        return
    console = Console()
    for title, counts in (("rows", recipe.counts), ("rejected rows", recipe.rejected)):
        if counts:
            listed = ", ".join(f"{key} {count:,}" for key, count in counts.items())
            console.print(f"{title}: {listed}", markup=False, highlight=False)
    if recipe.outlook:
        console.print(recipe.outlook, markup=False, highlight=False)
    next_command = f"{program_of(command)} run {shlex.quote(str(output))}"
    # Not wrapped, so that the command can be copied.
    console.print(
        f"{output}: next `{next_command}`",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _fields(prompt_field: str, completion_field: str) -> dict[str, str]:
    """Return the keys of a source that name columns, those that were given."""
    fields = {"prompt_field": prompt_field, "completion_field": completion_field}
    return {key: name for key, name in fields.items() if name}


def _asked(option: str, question: str, require: Callable[[str], str]) -> str:
    """Return what a person answers, asked again until `require` takes it.

    Raises:
        UserError: There is no terminal.
    """
    if not sys.stdin.isatty():
        raise UserError(f"{option} is missing, and there is no terminal to ask on")
    while True:
        answer: str = typer.prompt(question, err=True)
        try:
            return require(answer)
        except UserError as error:
            print_error(str(error))


def samples(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="Run; by default the one begun last.")
    ] = "latest",
    round_number: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--round",
            metavar="N",
            min=1,
            show_default=False,
            help="By default the last one.",
        ),
    ] = None,
    accepted: Annotated[
        bool, typer.Option("--accepted", help="Accepted samples.")
    ] = False,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Dropped samples.")
    ] = False,
    reason: Annotated[
        str,
        typer.Option(
            metavar="REASON", show_default=False, help="Dropped for this: verifier, …"
        ),
    ] = "",
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="Samples to show.")
    ] = 20,
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Show what the model said in a round, what was expected, and why it was dropped."""
    from components.cli.first_steps.samples import (
        as_document,
        print_samples,
        samples_of,
    )
    from components.cli.stores import existing_run, open_context, unknown_run
    from components.report.runs import load_run

    if accepted and (dropped or reason):
        raise UserError(
            "--accepted and --dropped exclude each other; without both, all are shown"
        )
    fates = "accepted" if accepted else reason or ("dropped" if dropped else "")
    context = open_context(store)
    view = load_run(context, existing_run(context, run_id))
    if not view.tasks:
        raise unknown_run(context, run_id)
    round_samples = samples_of(context, view, round_number, fates, limit)
    if as_json:
        print_json(as_document(round_samples))
    else:
        print_samples(Console(), round_samples)


def try_(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_RUN",
            help="Run, folder, hf://…@revision, release://name or .gguf file.",
        ),
    ] = "latest",
    prompts: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Answer these prompts; else lines are read.",
        ),
    ] = "",
    verifier: Annotated[
        str, typer.Option(metavar="CHECK", help="Check of answers to labelled prompts.")
    ] = "exact",
    prompt_field: PromptField = "",
    completion_field: CompletionField = "",
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Of a run: base, champion and last release side by side."
        ),
    ] = False,
    go_on: Annotated[
        bool,
        typer.Option(
            "--continue", help="Lines begin raw texts; the model goes on with each."
        ),
    ] = False,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=5.0, help="0: the likeliest answer.")
    ] = 0.0,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Of an answer.")
    ] = 256,
    system_prompt: Annotated[
        str, typer.Option(metavar="TEXT", show_default=False, help="System message.")
    ] = "",
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="Prompts of the file.")
    ] = 20,
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Chat with a model or a run's champion, or answer a file of prompts."""
    from components.cli.first_steps.try_model import (
        Models,
        Settings,
        as_document,
        chat,
        continue_texts,
        print_tried,
        prompts_of,
        try_prompts,
    )
    from components.cli.stores import open_context

    context = open_context(store)
    # Before a model is loaded, which takes seconds.
    fields = _fields(prompt_field, completion_field)
    if fields and not prompts:
        raise UserError(
            "--prompt-field and --completion-field are of a file: add --prompts FILE"
        )
    questions = (
        prompts_of(prompts, verifier, os.environ, limit, fields) if prompts else []
    )
    if as_json and not questions:
        raise UserError("--json needs --prompts")
    if go_on and questions:
        raise UserError(
            "--continue goes on with lines that are read: leave out --prompts"
        )
    settings = Settings(temperature, max_new_tokens, system_prompt)
    with Models(context, target, settings, compare=compare) as models:
        if not questions:
            if go_on:
                continue_texts(models, _lines(), Console())
            else:
                chat(models, _lines(), Console())
            return
        tried = try_prompts(models, questions)
    if as_json:
        print_json(as_document(tried))
    else:
        print_tried(Console(), tried)


def _lines() -> Iterator[str]:
    """Yield the lines that a person types, or those of standard input."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    print_note("one question a line; Ctrl-D ends", "dim")
    while True:
        try:
            yield input("> ")
        except EOFError:
            return
