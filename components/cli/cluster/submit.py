"""The `submit` verb: one run per name and commit, begun or found again."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from components.canonical import digest_of
from components.cli.cluster.kfp_api import Pipelines
from components.cli.cluster.kfp_calls import Lost, Unreachable
from components.cli.cluster.run_failures import StepFailure
from components.cli.json_documents import Json, nested
from components.cli.package.package_file import Package
from components.cli.source_tree import SOURCE_TREE
from components.errors import UserError
from components.retry import Backoff

JOINED_STATES = (
    "PENDING",
    "RUNNING",
    "PAUSED",
    "RUNTIME_STATE_UNSPECIFIED",
    "SUCCEEDED",
)
"""A run in one of these states is joined in preference to newer ones that failed."""
_ERROR_CHARACTERS = 300


@dataclass(frozen=True)
class Submission:
    """A run as it is to be created."""

    package: Package
    version: str
    """Name of the pipeline's version: the commit, and a digest of the package."""
    name: str
    """Display name of the run; the same name is the same run."""
    parameters: Json
    experiment: str = "ratchet"
    service_account: str = "ratchet-run"
    description: str = ""
    inputs_digest: str = ""
    """Of the data and models that the run reads; empty: they cannot change, are unknown, or do not
    count, as the user gave a name."""


@dataclass(frozen=True)
class Started:
    """A run on the cluster."""

    run_id: str
    url: str
    state: str
    attached: bool
    """It was there already."""
    run: Json = field(repr=False)
    failures: tuple[StepFailure, ...] = ()
    """Steps that failed, of a run that has ended as FAILED."""

    @property
    def may_pass(self) -> bool:
        """True if the run failed only for reasons that may be gone when it is begun again."""
        return bool(self.failures) and all(
            failure.may_pass for failure in self.failures
        )


def plan_submission(
    package: Package,
    parameters: Json,
    *,
    commit: str,
    name: str = "",
    default_name: str = "",
    inputs_digest: str = "",
    experiment: str = "ratchet",
    service_account: str = "ratchet-run",
) -> Submission:
    """Name a run and its pipeline's version.

    Args:
        package: The pipeline.
        parameters: The run's parameters.
        commit: Full hash, perhaps with `-changed` behind it; empty: unknown.
        name: The user's name of the run, which the commit completes.
        default_name: Without `name`, the run is called by this, commit, package, parameters and
            data; empty: the pipeline's name.
        inputs_digest: Of the data and models that the run reads (`digest_of_inputs`); empty: they
            cannot change, are unknown, or do not count, as there is a `name`.
        experiment: Kubeflow's folder of runs.
        service_account: Account of the pods.
    """
    package_digest = package.digest[:12]
    short_commit = commit[:12] or "no-commit"
    if commit.endswith("-changed"):
        short_commit += "-changed"
    if name:
        run_name = f"{name} {short_commit}"
    else:
        # Two recipes of one commit are two runs; a name of the user's asks for a single one.
        content: list[str | Json] = [package_digest, parameters]
        if inputs_digest:
            # Other data of the same recipe is another run, and the same data is not.
            content.append(inputs_digest)
        content_digest = digest_of(content)[:8]
        run_name = f"{default_name or package.name} {short_commit}-{content_digest}"
    return Submission(
        package,
        version=f"{short_commit}-{package_digest}",
        name=run_name,
        parameters=parameters,
        experiment=experiment,
        service_account=service_account,
        description=f"commit {commit or 'unknown'}, package {package_digest}",
        inputs_digest=inputs_digest,
    )


def current_commit(environment: Mapping[str, str]) -> str:
    """Return the commit of this source tree, with `-changed` behind it where files were edited.

    Outside a repository it is the one that CI names in the environment; else empty.
    """
    try:
        commit = _git(environment, "rev-parse", "HEAD")
        # Untracked files are rarely code: runs, editors and tests leave some.
        edited_files = _git(
            environment, "status", "--porcelain", "--untracked-files=no"
        )
    except (OSError, subprocess.CalledProcessError):
        return environment.get("GITHUB_SHA") or environment.get("CI_COMMIT_SHA") or ""
    return f"{commit}-changed" if edited_files else commit


def _git(environment: Mapping[str, str], *arguments: str) -> str:
    command = ["git", "-C", str(SOURCE_TREE), *arguments]
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    )
    return result.stdout.strip()


def start(
    pipelines: Pipelines,
    submission: Submission,
    *,
    again: bool = False,
    again_if_failed: bool = False,
    ui: str = "",
) -> Started:
    """Begin the run, or join the one of that name.

    Args:
        pipelines: The API server.
        submission: The run.
        again: Begin a new run even where there is one of that name.
        again_if_failed: Begin a new run where all of that name failed or were cancelled, the newest
            of them failed.
        ui: Address of Kubeflow's UI for the run's link; empty: that of the API.

    Raises:
        UserError: The server refuses, or the run of that name has other parameters.
        Unreachable: The server does not answer.
    """
    # The API has no idempotency key. So look before creating, after a creation whose answer got
    # lost, and once more at the end.
    experiment = pipelines.experiment(submission.experiment)
    existing = pipelines.runs(experiment, submission.name)
    begins_anew = again or (
        again_if_failed and state_of(_to_join(existing)) == "FAILED"
    )
    if existing and not begins_anew:
        return _join(pipelines, submission, existing, ui)
    body = _run_body(pipelines, submission, experiment)
    existing_ids = {run["run_id"] for run in existing}
    run, is_ours = _create(pipelines, experiment, submission.name, body, existing_ids)
    if is_ours and not again:
        # Of two who begin at once, the later one's run is deleted, and both join the first.
        runs = pipelines.runs(experiment, submission.name)
        new_runs = [
            new_run for new_run in runs if new_run["run_id"] not in existing_ids
        ]
        first = new_runs[0] if new_runs else run
        if first["run_id"] != run["run_id"]:
            pipelines.delete_run(run["run_id"])
            run = first
            is_ours = False
    return _started(pipelines, run, ui, attached=not is_ours)


def _run_body(pipelines: Pipelines, submission: Submission, experiment: str) -> Json:
    """Return the request that creates the run; the pipeline's version is uploaded if missing."""
    package = submission.package
    pipeline_id, version_id = pipelines.version(
        package.name, submission.version, package.text
    )
    return {
        "display_name": submission.name,
        "description": submission.description,
        "experiment_id": experiment,
        "pipeline_version_reference": {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": version_id,
        },
        "runtime_config": {"parameters": submission.parameters},
        "service_account": submission.service_account,
    }


def _create(
    pipelines: Pipelines, experiment: str, name: str, body: Json, existing_ids: set[str]
) -> tuple[Json, bool]:
    """Return the new run, and whether it is surely ours."""
    backoff = Backoff(pipelines.patience)
    while True:
        try:
            return pipelines.create_run(body), True
        except Lost as error:
            if not backoff.wait():
                raise Unreachable(
                    f"{pipelines.access.endpoint}: run {name} could not be begun: {error}"
                ) from None
        for run in pipelines.runs(experiment, name):
            if run["run_id"] not in existing_ids:
                return run, False


def _join(
    pipelines: Pipelines, submission: Submission, runs: list[Json], ui: str
) -> Started:
    """Join a run of this name, unless it has other parameters."""
    run = _to_join(runs)
    parameters = nested(run, "runtime_config", "parameters")
    for name in sorted({*parameters, *submission.parameters}):
        if parameters.get(name) != submission.parameters.get(name):
            raise UserError(
                f"run {submission.name!r} ({run['run_id']}) is there with another {name}; give "
                "this one another --name"
            )
    return _started(pipelines, run, ui, attached=True)


def _to_join(runs: list[Json]) -> Json:
    """Return the newest run that lives or succeeded, else the newest of all; empty without runs."""
    usable = [run for run in runs if run.get("state") in JOINED_STATES]
    candidates = usable or runs
    return candidates[-1] if candidates else {}


def _started(pipelines: Pipelines, run: Json, ui: str, *, attached: bool) -> Started:
    base = (ui or pipelines.access.endpoint).rstrip("/")
    return Started(
        run["run_id"],
        url=f"{base}/#/runs/details/{run['run_id']}",
        state=state_of(run),
        attached=attached,
        run=run,
    )


def state_of(run: Json) -> str:
    """Return the state of a run by its name in the API."""
    # A run that was just created has no state yet.
    return str(run.get("state") or "PENDING")


def failure_lines(started: Started) -> list[str]:
    """Return a line for each failed step; without one, the run's own error, if it has one."""
    # A run can fail before any of its pods exists.
    run_error = _error_message(started.run)
    if not started.failures and run_error:
        return [run_error]
    return [str(failure) for failure in started.failures]


def _error_message(document: Json) -> str:
    message = str(nested(document, "error").get("message") or "")
    return " ".join(message.split())[:_ERROR_CHARACTERS]


def as_document(started: Started, submission: Submission) -> Json:
    """Return what `--json` prints of a submission."""
    return {
        "run_id": started.run_id,
        "name": submission.name,
        "state": started.state,
        "url": started.url,
        "attached": started.attached,
        "pipeline": submission.package.name,
        "version": submission.version,
        "parameters": submission.parameters,
        "failures": failure_lines(started),
    }
