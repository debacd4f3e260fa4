"""The verbs for a cluster: compile, submit, schedule, doctor."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer
from rich.console import Console
from rich.text import Text

from components.cli.builder import Builder, builder_of
from components.cli.options import AsJson, Override, RecipeFile, Rounds, print_json, say
from components.cli.package.profiles import Step
from components.errors import UserError

Target = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="Recipe, or a package that `compile` made.")
]
ProfileName = Annotated[
    str,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="cpu, gpu-1, gpu-8, multi-node, or a YAML file of your own.",
    ),
]
Namespace = Annotated[
    str,
    typer.Option(
        envvar="RATCHET_NAMESPACE",
        metavar="NAME",
        show_default=False,
        help="Namespace of the runs.",
    ),
]
Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="RATCHET_STORE",
        metavar="URI",
        show_default=False,
        help="s3://bucket/prefix",
    ),
]
Endpoint = Annotated[
    str,
    typer.Option(
        envvar="KF_PIPELINES_ENDPOINT",
        metavar="URL",
        show_default=False,
        help="The API of Kubeflow Pipelines.",
    ),
]
TokenFile = Annotated[
    Optional[Path],  # noqa: UP045 — typer reads it at run time
    typer.Option(
        envvar="KF_PIPELINES_SA_TOKEN_PATH",
        metavar="FILE",
        show_default=False,
        help="Bearer token, read anew for every call. Without one: KF_PIPELINES_TOKEN.",
    ),
]
Parameters = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--param", metavar="NAME=VALUE", help="A parameter of the pipeline. May be repeated."
    ),
]
Experiment = Annotated[str, typer.Option(metavar="NAME", help="Kubeflow's folder of runs.")]
Account = Annotated[str, typer.Option(metavar="NAME", help="Service account of the pods.")]
Commit = Annotated[
    str, typer.Option(metavar="SHA", show_default=False, help="By default that of this checkout.")
]


def add_verbs(app: typer.Typer) -> None:
    """Make them verbs of the command line."""
    app.command(name="compile")(compile_)
    app.command()(submit)
    app.command()(schedule)
    app.command()(doctor)


def compile_(
    command: typer.Context,
    recipe: RecipeFile,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Where the pipeline's YAML goes.")
    ],
    override: Override = None,
    rounds: Rounds = 4,
    profile: ProfileName = "cpu",
    form: Annotated[
        Literal["kfp", "kubernetes"],
        typer.Option(
            "--format", help="For the UI and `submit`, or objects for GitOps (KFP's native API)."
        ),
    ] = "kfp",
    namespace: Namespace = "",
    as_json: AsJson = False,
) -> None:
    """Compile the pipeline, with the recipe as its default, for a Kubeflow cluster."""
    from components.cli.package.compile import write_package
    from components.cli.package.profiles import load_profile
    from components.contracts.recipe_file import load_recipe

    resolved = load_recipe(recipe, tuple(override or ()))
    if output.suffix not in (".yaml", ".yml"):
        raise UserError(f"-o {output}: the file must end in .yaml")
    made = write_package(
        builder_of(command), resolved, rounds, load_profile(profile), output, form, namespace
    )
    told = {
        "output": str(output),
        "bytes": output.stat().st_size,
        "run_id": resolved.run_id,
        "rounds": rounds,
        "profile": profile,
        "version": made.version,
        "unpinned_images": list(made.unpinned),
    }
    text = f"{output}: {told['bytes']:,} bytes, {rounds} rounds, profile {profile}, run {resolved.run_id}"
    if made.unpinned:
        text += f"\nimages without a digest, for trials only: {', '.join(made.unpinned)}"
    say(told, as_json, text)


def submit(
    command: typer.Context,
    recipe: Target,
    store: Store = "",
    endpoint: Endpoint = "",
    namespace: Namespace = "",
    override: Override = None,
    rounds: Rounds = 4,
    profile: ProfileName = "cpu",
    param: Parameters = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Of the run; by default after recipe and commit.")
    ] = "",
    commit: Commit = "",
    experiment: Experiment = "ratchet",
    service_account: Account = "ratchet-run",
    token_file: TokenFile = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until the run has ended.")] = False,
    timeout_hours: Annotated[
        float, typer.Option(min=0, help="Wait no longer; 0: without end.")
    ] = 0,
    again: Annotated[
        bool, typer.Option("--again", help="Begin another run where there is one of this name.")
    ] = False,
    summary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append the verdict as Markdown.")
    ] = None,
    ui: Annotated[
        str,
        typer.Option(
            envvar="KF_PIPELINES_UI_ENDPOINT", metavar="URL", help="Of the UI, if elsewhere."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Begin a run on a cluster, or join the one of the same name and commit.

    Exit status with --wait: 0 succeeded, 1 failed, 2 time is up or wrong usage, 3 cancelled, 4 the
    API did not answer.
    """
    from components.cli.cluster.submit import as_document, follow, plan_submission, start
    from components.cli.cluster.summary import summary_page
    from components.cli.package.compile import unpinned_images

    package, known_as = _package(builder_of(command), recipe, override, rounds, profile)
    wanted = plan_submission(
        package,
        _parameters(package, param, store),
        commit=_commit(commit),
        name=name,
        default_name=known_as,
        experiment=experiment,
        service_account=service_account,
    )
    pipelines = _pipelines(endpoint, namespace, token_file)
    told = Console(stderr=True)
    if unpinned := unpinned_images(package):
        told.print(
            Text(f"images without a digest, for trials only: {', '.join(unpinned)}"), soft_wrap=True
        )
    started = start(pipelines, wanted, again=again, ui=ui)
    verb = "joined" if started.attached else "began"
    told.print(Text(f"{verb} run {wanted.name}: {started.state}\n{started.url}"), soft_wrap=True)
    status = 0
    if wait:
        limit = timeout_hours * 3600 or None
        try:
            started, status = follow(
                pipelines, started, limit, lambda state: told.print(Text(state))
            )
        except KeyboardInterrupt:
            told.print(Text(f"no longer waiting; the run goes on: {started.url}"), soft_wrap=True)
            raise typer.Exit(130) from None
    elif started.attached and started.state in ("FAILED", "CANCELED"):
        status = 1 if started.state == "FAILED" else 3
    _tell_end(told, started, status)
    if summary is not None:
        with summary.open("a", encoding="utf-8") as file:
            file.write(summary_page(wanted, started, os.environ))
    say(
        {**as_document(started, wanted), "exit_code": status},
        as_json,
        f"{started.state} {started.run_id}",
    )
    raise typer.Exit(status)


def _tell_end(told: Console, started: Any, status: int) -> None:
    """What there is to say of a run beyond its state."""
    from components.cli.cluster.submit import TIME_IS_UP, failures

    for line in failures(started.run) if status == 1 else ():
        told.print(Text(line, style="red"), soft_wrap=True)
    if started.attached and status in (1, 3):
        told.print(
            Text(
                "this run was there already; --again begins another, which re-uses what is finished"
            )
        )
    if status == TIME_IS_UP:
        told.print(Text(f"the time is up; the run goes on: {started.url}"), soft_wrap=True)


def schedule(
    command: typer.Context,
    recipe: Target,
    cron: Annotated[
        str, typer.Option(metavar="CRON", help="'0 3 * * 1' is Mondays at 3 UTC.")
    ] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Delete the schedule.")] = False,
    store: Store = "",
    endpoint: Endpoint = "",
    namespace: Namespace = "",
    override: Override = None,
    rounds: Rounds = 4,
    profile: ProfileName = "cpu",
    param: Parameters = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Of the schedule; by default the pipeline's.")
    ] = "",
    commit: Commit = "",
    experiment: Experiment = "ratchet",
    service_account: Account = "ratchet-run",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Have a recurring run of this recipe, exactly one of its name; said again, nothing changes."""
    from components.cli.cluster.schedule import checked_cron, unschedule
    from components.cli.cluster.schedule import schedule as have
    from components.cli.cluster.submit import plan_submission

    package, _ = _package(builder_of(command), recipe, override, rounds, profile)
    called = name or package.name
    if remove == bool(cron):
        raise UserError("say either --cron '0 3 * * 1' or --remove")
    if remove:
        done, found = (
            unschedule(_pipelines(endpoint, namespace, token_file), experiment, called),
            "",
        )
    else:
        when = checked_cron(cron)
        wanted = plan_submission(
            package,
            _parameters(package, param, store),
            commit=_commit(commit),
            experiment=experiment,
            service_account=service_account,
        )
        done, found = have(_pipelines(endpoint, namespace, token_file), wanted, called, when)
    say(
        {"schedule": called, "done": done, "recurring_run_id": found},
        as_json,
        f"schedule {called}: {done}",
    )


def doctor(
    store: Store = "",
    endpoint: Endpoint = "",
    namespace: Namespace = "",
    profile: ProfileName = "cpu",
    service_account: Account = "ratchet-run",
    token_file: TokenFile = None,
    local_step: Annotated[
        Literal["", Step],
        typer.Option(
            "--here",
            help="Look at this pod or container too, as this step would.",
            show_default=False,
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Try out all that a run needs of store, cluster, registry and API, and say what to do. Exit
    status 1: a check failed."""
    from components.cli.doctor.all_checks import Surroundings, all_checks
    from components.cli.doctor.findings import as_document, exit_code, print_findings
    from components.cli.package.profiles import load_profile

    surroundings = Surroundings(
        store, endpoint, namespace, service_account, token_file, environment=os.environ
    )
    findings = all_checks(
        load_profile(profile), surroundings, local_step=local_step, clock=time.time
    )
    if as_json:
        print_json(as_document(findings))
    else:
        print_findings(Console(), findings)
    raise typer.Exit(exit_code(findings))


def _package(
    build: Builder, recipe: Path, override: Any, rounds: int, profile: str
) -> tuple[Any, str]:
    """The package of a recipe, or the one that the file is; and what a run of it is called."""
    from components.cli.package.compile import compile_recipe
    from components.cli.package.lint import findings
    from components.cli.package.package_file import read_package
    from components.cli.package.profiles import load_profile
    from components.contracts.recipe_file import load_recipe

    text = recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else ""
    if "pipelineInfo:" not in text:
        resolved = load_recipe(recipe, tuple(override or ()))
        return compile_recipe(
            build, resolved, rounds, load_profile(profile)
        ).package, resolved.run_id
    if override:
        raise UserError(
            f"{recipe} is compiled: --set is for recipes; use --param, or submit the recipe"
        )
    package = read_package(recipe)
    if broken := findings(package):
        raise UserError(f"{recipe} would not run as it should: {'; '.join(broken[:5])}")
    return package, package.name


def _parameters(package: Any, given: Any, store: str) -> dict[str, Any]:
    from components.cli.cluster.run_parameters import checked_parameters

    return checked_parameters(package, tuple(given or ()), store)


def _commit(given: str) -> str:
    from components.cli.cluster.submit import current_commit

    return given or current_commit(os.environ)


def _pipelines(endpoint: str, namespace: str, token_file: Path | None) -> Any:
    from components.cli.cluster.kfp_api import Pipelines
    from components.cli.cluster.kfp_calls import ApiPatience, access_from

    return Pipelines(access_from(os.environ, endpoint, namespace, token_file), ApiPatience())
