"""The verbs for a cluster: compile, submit, schedule, doctor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from components.cli.builder import builder_of
from components.cli.messages import print_json, print_note, print_result
from components.cli.options import (
    Account,
    AsJson,
    ClusterOptions,
    ClusterStore,
    Endpoint,
    Namespace,
    Override,
    ProfileName,
    RecipeFile,
    RecipeToCheck,
    Rounds,
    TokenFile,
    output_option,
    with_cluster_options,
)
from components.cli.package.profiles import Step
from components.errors import RatchetError, UserError
from components.storage.folder import local_errors, make_folder

if TYPE_CHECKING:
    from components.cli.cluster.kfp_api import Pipelines
    from components.cli.cluster.run_verdict import KnownVerdict
    from components.cli.cluster.submit import Started, Submission
    from components.cli.cluster.wait import Waiting
    from components.cli.json_documents import Json
    from components.cli.package.package_file import Package

# The status by which a shell knows a command that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130


def add_verbs(app: typer.Typer) -> None:
    """Make them verbs of the command line."""
    app.command(name="compile")(compile_)
    app.command()(with_cluster_options(submit))
    app.command()(with_cluster_options(schedule))
    app.command()(doctor)


def compile_(
    command: typer.Context,
    recipe: RecipeFile,
    output: Annotated[
        Path, output_option("FILE", "Write the pipeline's YAML to FILE.")
    ],
    override: Override = None,
    rounds: Rounds = 4,
    profile: ProfileName = "cpu",
    form: Annotated[
        Literal["kfp", "kubernetes"],
        typer.Option(
            "--format",
            help="For the UI and `submit`, or objects for GitOps (KFP's native API).",
        ),
    ] = "kfp",
    namespace: Namespace = "",
    store: ClusterStore = "",
    as_json: AsJson = False,
) -> None:
    """Compile the pipeline for a Kubeflow cluster, with the recipe as its default.

    With --store, data, models and verifiers of this machine are uploaded to it.
    """
    from components.cli.cluster.run_package import warnings, with_inputs_sent
    from components.cli.package.compile import write_package
    from components.cli.package.profiles import check_fit, load_profile
    from components.cli.package.workflow_size import workflow_size
    from components.cli.shipped_recipes import find_recipe
    from components.contracts.recipe_file import load_recipe

    # KFP's compiler refuses any other ending.
    if output.suffix not in (".yaml", ".yml"):
        raise UserError(f"-o {output}: the file must end in .yaml")
    loaded_profile = load_profile(profile)
    path = find_recipe(recipe)
    overrides = tuple(override or ())
    resolved = load_recipe(path, overrides)
    check = partial(check_fit, resolved, loaded_profile)
    resolved = with_inputs_sent(resolved, path, overrides, store, check)
    compiled = write_package(
        builder_of(command), resolved, rounds, loaded_profile, output, form, namespace
    )
    size_bytes = output.stat().st_size
    size = workflow_size(compiled.package)
    document = {
        "output": str(output),
        "bytes": size_bytes,
        "run_id": resolved.run_id,
        "rounds": rounds,
        "profile": profile,
        "version": compiled.version,
        "workflow_nodes": size.nodes,
        "pods": size.pods,
        "unpinned_images": list(compiled.unpinned),
    }
    text = (
        f"{output}: {size_bytes:,} bytes, {rounds} rounds in {size.pods} pods, profile {profile}, "
        f"run {resolved.run_id}"
    )
    for warning in warnings(compiled.package):
        text += f"\n{warning}"
    print_result(document, as_json, text)


def submit(
    command: typer.Context,
    options: ClusterOptions,
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Name of the run; by default after recipe and commit."
        ),
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the run has ended.")
    ] = False,
    timeout_hours: Annotated[
        float, typer.Option(min=0, help="Wait no longer; 0: without end.")
    ] = 0,
    restarts: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="With --wait, begin a run again up to N times if it failed for reasons that may "
            "pass: evicted, out of memory, node or network lost.",
        ),
    ] = 3,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Begin another run where there is one of this name."
        ),
    ] = False,
    again_if: Annotated[
        Literal["", "failed"],
        typer.Option(
            "--again-if",
            show_default=False,
            help="failed: begin another run where the one of this name failed; else join it.",
        ),
    ] = "",
    summary: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append the verdict as Markdown."),
    ] = None,
    outputs_file: Annotated[
        Path | None,
        typer.Option(
            "--outputs",
            metavar="FILE",
            help="Append run=, promoted=, model= and verdict= for the next jobs of a CI system.",
        ),
    ] = None,
    require_release: Annotated[
        bool,
        typer.Option(
            "--require-release",
            help="With --wait: end with 5 where the run succeeded and released no model.",
        ),
    ] = False,
    ui: Annotated[
        str,
        typer.Option(
            envvar="KF_PIPELINES_UI_ENDPOINT",
            metavar="URL",
            help="Address of the UI, if it is not the API's.",
        ),
    ] = "",
) -> None:
    """Begin a run on a cluster, or join the one of the same name and commit.

    Exit status with --wait: 0 succeeded, 1 failed, 2 time is up or wrong usage, 3 cancelled, 4 the
    API did not answer. With --require-release 0 means that a model was released; 5 none was, 6 it
    could not be read.
    """
    from components.cli.cluster.run_package import load_package, warnings
    from components.cli.cluster.run_verdict import read_verdict
    from components.cli.cluster.submit import as_document, start
    from components.cli.cluster.summary import (
        outputs,
        summary_page,
        verdict_document,
    )
    from components.cli.cluster.wait import EXIT_CODES, Waiting

    if require_release and not wait:
        raise UserError(
            "--require-release needs --wait: only a run that has ended has a verdict"
        )
    package, default_name = load_package(
        builder_of(command), options, _is_ready(options)
    )
    submission = _plan(package, options, name, default_name)
    pipelines = _pipelines(options)
    for warning in warnings(package):
        print_note(warning)
    again_if_failed = again_if == "failed"
    started = start(
        pipelines, submission, again=again, again_if_failed=again_if_failed, ui=ui
    )
    verb = "joined" if started.attached else "began"
    print_note(f"{verb} run {submission.name}: {started.state}\n{started.url}")
    if started.attached and started.state == "SUCCEEDED" and not name:
        and_data = " and data" if submission.inputs_digest else ""
        print_note(
            f"nothing changed: this run had the same code, recipe, parameters{and_data}"
        )
    status = 0
    if wait:
        waiting = Waiting(
            timeout_seconds=timeout_hours * 3600 or None,
            restarts=restarts,
            on_state=print_note,
            on_restart=partial(_print_restart, restarts),
            environment=os.environ,
            ui=ui,
        )
        started, status = _wait(pipelines, submission, started, waiting)
    elif started.attached:
        # A run that goes on is a success of `submit`; one that ended badly before is none.
        status = EXIT_CODES.get(started.state, 0)
    _print_end(started, status)
    document = as_document(started, submission)
    has_ended = wait and started.state in EXIT_CODES
    if has_ended or summary is not None or outputs_file is not None:
        known = read_verdict(pipelines, submission, started, os.environ)
        # Appended: the page of a CI job also has what its other steps wrote.
        if summary is not None:
            _append(summary, summary_page(submission, started, known))
        if outputs_file is not None:
            _append(outputs_file, outputs(started, known))
        if has_ended:
            _print_verdict(started, known)
            document |= verdict_document(started, known)
        if require_release and status == 0:
            status = _status_by_release(known)
    document["exit_code"] = status
    print_result(document, options.as_json, f"{started.state} {started.run_id}")
    raise typer.Exit(status)


def _append(path: Path, text: str) -> None:
    with local_errors(path):
        make_folder(path.parent)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)


def _wait(
    pipelines: Pipelines, submission: Submission, started: Started, waiting: Waiting
) -> tuple[Started, int]:
    from components.cli.cluster.wait import follow_and_restart

    try:
        return follow_and_restart(pipelines, submission, started, waiting)
    except KeyboardInterrupt:
        print_note(f"no longer waiting; the run goes on: {started.url}")
        raise typer.Exit(INTERRUPTED) from None


def _print_restart(restarts: int, failed: Started, number: int) -> None:
    for failure in failed.failures:
        print_note(str(failure), style="red")
    print_note(
        f"{failed.run_id} failed for a reason that may pass: restart {number} of {restarts}, which "
        "re-uses what is finished"
    )


def _print_end(started: Started, status: int) -> None:
    """Print what there is to say of a run beyond its state."""
    from components.cli.cluster.submit import failure_lines
    from components.cli.cluster.wait import EXIT_CODES, TIME_IS_UP

    if status == EXIT_CODES["FAILED"]:
        for line in failure_lines(started):
            print_note(line, style="red")
    if started.attached and status in (EXIT_CODES["FAILED"], EXIT_CODES["CANCELED"]):
        print_note(
            "this run was there already; --again begins another, which re-uses what is finished"
        )
    if status == TIME_IS_UP:
        print_note(f"the time is up; the run goes on: {started.url}")


def _print_verdict(started: Started, known: KnownVerdict) -> None:
    from components.cli.cluster.summary import verdict_lines, verdict_of

    if known.verdict is not None:
        for line in verdict_lines(known.verdict):
            print_note(line)
    verdict = verdict_of(started, known)
    print_note(" ".join(filter(None, (verdict["verdict"], verdict["model"]))))


def _status_by_release(known: KnownVerdict) -> int:
    from components.cli.cluster.wait import NOT_KNOWN, NOTHING_RELEASED

    if known.verdict is None:
        return NOT_KNOWN
    return 0 if known.verdict.promoted else NOTHING_RELEASED


def schedule(
    command: typer.Context,
    options: ClusterOptions,
    cron: Annotated[
        str,
        typer.Option(
            metavar="CRON", help="Time of the runs: '0 3 * * 1' is Mondays at 3 UTC."
        ),
    ] = "",
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete the schedule.")
    ] = False,
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Name of the schedule; by default the pipeline's."
        ),
    ] = "",
) -> None:
    """Create or update the recurring run of this name. Idempotent."""
    from components.cli.cluster import schedule as schedules
    from components.cli.cluster.run_package import load_package

    if remove == bool(cron):
        raise UserError("say either --cron '0 3 * * 1' or --remove")
    checked_cron = "" if remove else schedules.checked_cron(cron)
    # Also to remove: by default a schedule has the name of the pipeline.
    package, _ = load_package(
        builder_of(command), options, None if remove else _is_ready(options)
    )
    schedule_name = name or package.name
    outcome: schedules.Outcome
    recurring_run_id = ""
    if remove:
        outcome = schedules.unschedule(
            _pipelines(options), options.experiment, schedule_name
        )
    else:
        submission = _plan(package, options, schedule_name)
        outcome, recurring_run_id = schedules.schedule(
            _pipelines(options), submission, schedule_name, checked_cron
        )
    document = {
        "schedule": schedule_name,
        "done": outcome,
        "recurring_run_id": recurring_run_id,
    }
    said = f"schedule {schedule_name}: {outcome}"
    if outcome == "disabled":
        said += (
            ", as a run that it began goes on; after its end this command removes it"
        )
    print_result(document, options.as_json, said)


def doctor(
    recipe: RecipeToCheck = None,
    override: Override = None,
    store: ClusterStore = "",
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
    """Check everything that a run needs of store, cluster, registry and API.

    With RECIPE, also what it asks for: addresses, variables, nodes of its trainings. Each problem is
    shown with what to do. Exit status 1: a check failed.
    """
    from components.cli.doctor.all_checks import Surroundings, all_checks
    from components.cli.doctor.findings import as_document, exit_code, print_findings
    from components.cli.package.profiles import load_profile
    from components.cli.shipped_recipes import find_recipe
    from components.contracts.recipe_file import load_recipe

    surroundings = Surroundings(
        store, endpoint, namespace, service_account, token_file, environment=os.environ
    )
    loaded_recipe = None
    if recipe is not None:
        loaded_recipe = load_recipe(find_recipe(recipe), tuple(override or ()))
    elif override:
        raise UserError("--set changes a recipe; name the recipe too")
    findings = all_checks(
        load_profile(profile),
        surroundings,
        local_step=local_step,
        clock=time.time,
        recipe=loaded_recipe,
    )
    if as_json:
        print_json(as_document(findings))
    else:
        print_findings(Console(), findings)
    raise typer.Exit(exit_code(findings))


def _is_ready(options: ClusterOptions) -> Callable[[], object]:
    """Return a call that asks the API and raises if it is away or would take no run."""
    return partial(_pipelines, options)


def _plan(
    package: Package, options: ClusterOptions, name: str = "", default_name: str = ""
) -> Submission:
    from components.cli.cluster.run_parameters import checked_parameters
    from components.cli.cluster.submit import current_commit, plan_submission

    parameters = checked_parameters(package, tuple(options.param or ()), options.store)
    return plan_submission(
        package,
        parameters,
        commit=options.commit or current_commit(os.environ),
        name=name,
        default_name=default_name,
        # Runs and schedules of a name of the user's are found by that name alone.
        inputs_digest="" if name else _inputs_digest(package, parameters),
        experiment=options.experiment,
        service_account=options.service_account,
    )


def _inputs_digest(package: Package, parameters: Json) -> str:
    """Return a digest of the data and models of a run; empty, with a note, if it is not known."""
    from components.cli.cluster.inputs import digest_of_inputs
    from components.cli.cluster.run_parameters import recipe_of_run

    try:
        return digest_of_inputs(recipe_of_run(package, parameters), os.environ)
    except RatchetError as error:
        # Pods may well read what this machine cannot.
        print_note(
            f"whether the data has changed cannot be seen from here ({error}): a run of the same "
            "recipe and commit is joined; --again begins another"
        )
        return ""


def _pipelines(options: ClusterOptions) -> Pipelines:
    from components.cli.cluster.kfp_api import Pipelines
    from components.cli.cluster.kfp_calls import ApiPatience, access_from
    from components.cli.cluster.tenancy import check_tenancy, check_version

    access = access_from(
        os.environ, options.endpoint, options.namespace, options.token_file
    )
    pipelines = Pipelines(access, ApiPatience())
    health = pipelines.health()
    check_version(health)
    check_tenancy(health, options.namespace)
    return pipelines
