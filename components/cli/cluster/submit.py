"""The `submit` verb: one run per name and commit, begun or found again, and followed to its end.

Exit status with `--wait`: 0 the run succeeded, 1 failed, 2 the time is up (or wrong usage), 3
cancelled, 4 the API did not answer. A goal that was not met is no failure of the run; its verdict
is in the summary.
"""

from __future__ import annotations

import dataclasses
import difflib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from components.canonical import digest_of
from components.cli.cluster.kfp_api import Gone, Json, Lost, Pipelines, Unreachable
from components.cli.package.package_file import Package
from components.cli.package.secret_values import looks_secret
from components.cli.source_tree import SOURCE_TREE
from components.errors import UserError
from components.retry import Backoff, pauses
from components.storage import keys

EXIT_CODES = {"SUCCEEDED": 0, "SKIPPED": 0, "FAILED": 1, "CANCELED": 3}
TIME_IS_UP = 2
LIVE = ("PENDING", "RUNNING", "PAUSED", "RUNTIME_STATE_UNSPECIFIED", "SUCCEEDED")
"""States of a run that another submission of the same joins rather than the newest of the others.
"""
FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 2.0, 30.0
POLL_GIVE_UP_SECONDS = 1800.0
"""For so long the API may be away while a run is waited for: an upgrade of it takes minutes."""
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "STRING": ((str,), "text"),
    "NUMBER_INTEGER": ((int,), "a whole number"),
    "NUMBER_DOUBLE": ((int, float), "a number"),
    "BOOLEAN": ((bool,), "true or false"),
    "STRUCT": ((dict,), "a mapping"),
    "LIST": ((list,), "a list"),
}


@dataclass(frozen=True)
class Submission:
    """What is to run."""

    package: Package
    version: str
    """Name of the pipeline's version: the commit, and a digest of the package."""
    name: str
    """Display name of the run; the same name is the same run."""
    parameters: Json
    experiment: str = "ratchet"
    service_account: str = "ratchet-run"
    description: str = ""


@dataclass(frozen=True)
class Started:
    """A run on the cluster."""

    run_id: str
    url: str
    state: str
    attached: bool
    """It was there already."""
    run: Json = field(repr=False)


def plan_submission(
    package: Package,
    parameters: Json,
    *,
    commit: str,
    name: str = "",
    default_name: str = "",
    **more: Any,
) -> Submission:
    """Name a submission after its commit, package and parameters; with a `name` of the user's,
    after that and the commit alone."""
    short, digest = commit[:12] or "no-commit", package.digest[:12]
    changed = "-changed" if commit.endswith("-changed") else ""
    if name:
        shown = f"{name} {short}{changed}"
    else:
        shown = (
            f"{default_name or package.name} {short}{changed}-{digest_of([digest, parameters])[:8]}"
        )
    text = f"commit {commit or 'unknown'}, package {digest}"
    return Submission(
        package, f"{short}{changed}-{digest}", shown, parameters, description=text, **more
    )


def current_commit(environment: Mapping[str, str]) -> str:
    """The commit of this checkout, `-changed` behind it where files were edited since; else what CI
    says; else empty."""
    try:
        commit = _git(environment, "rev-parse", "HEAD")
        edited = _git(environment, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return environment.get("GITHUB_SHA") or environment.get("CI_COMMIT_SHA") or ""
    return f"{commit}-changed" if edited else commit


def _git(environment: Mapping[str, str], *arguments: str) -> str:
    command = ["git", "-C", str(SOURCE_TREE), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    ).stdout.strip()


def checked_parameters(package: Package, given: Sequence[str], store: str) -> Json:
    """`name=value` words as the run's parameters. Raises UserError for an unknown name, a wrong
    type, what is missing, a store that pods cannot reach, and any value that looks like a secret.
    """
    known, found = package.parameters, {}
    for word in given:
        name, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"--param {name}: write name=value")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise UserError(
                f"--param {name}: the pipeline has no such parameter; did you mean {near[0]!r}?"
            )
        found[name] = _parsed(name, text, str(known[name].get("parameterType", "STRING")))
    if store and "store" in known:
        found["store"] = store
    missing = [
        name for name, one in known.items() if name not in found and not one.get("isOptional")
    ]
    if missing:
        raise UserError(
            f"parameter {missing[0]} has no value; pass --{'store' if 'store' in missing else 'param'} …"
        )
    for name, value in found.items():
        if looks_secret(name, value):
            raise UserError(
                f"parameter {name} looks like a secret: everybody who may see the run would see it, for ever. Put it "
                "into a Secret of the namespace and name that in the profile (`secrets`)"
            )
    if "store" in found and not keys.canonical_root(str(found["store"])).startswith("s3://"):
        raise UserError(f"store {found['store']}: pods share no disk; use s3://bucket/prefix")
    return found


def _parsed(name: str, text: str, kind: str) -> Any:
    types, shown = _KINDS.get(kind, ((object,), "a value"))
    try:
        value = text if kind == "STRING" else yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, types) or (isinstance(value, bool) and kind != "BOOLEAN"):
        raise UserError(
            f"--param {name}: {shown} is wanted"
        )  # without the value: it may be a secret
    return value


def start(
    pipelines: Pipelines, wanted: Submission, *, again: bool = False, ui: str = ""
) -> Started:
    """Begin the run, or join the one of that name. With `again` a new one is begun, whatever is
    there.

    Looks before it creates, after a creation whose answer got lost, and once more afterwards: of
    two who begin at once the later one's run is deleted, and both join the first.
    """
    experiment = pipelines.experiment(wanted.experiment)
    before = pipelines.runs(experiment, wanted.name)
    if before and not again:
        return _joined(pipelines, wanted, before, ui)
    pipeline_id, version_id = pipelines.version(
        wanted.package.name, wanted.version, wanted.package.text
    )
    body = {
        "display_name": wanted.name,
        "description": wanted.description,
        "experiment_id": experiment,
        "pipeline_version_reference": {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": version_id,
        },
        "runtime_config": {"parameters": wanted.parameters},
        "service_account": wanted.service_account,
    }
    known = {one["run_id"] for one in before}
    made, mine = _create(pipelines, experiment, wanted.name, body, known)
    # Since we looked, others may have begun the same.
    rivals = [one for one in pipelines.runs(experiment, wanted.name) if one["run_id"] not in known]
    if mine and not again and rivals and rivals[0]["run_id"] != made["run_id"]:
        pipelines.delete_run(made["run_id"])
        made, mine = rivals[0], False
    return _started(pipelines, made, ui, attached=not mine)


def _create(
    pipelines: Pipelines, experiment: str, name: str, body: Json, known: set[str]
) -> tuple[Json, bool]:
    """The run, and whether it is surely ours."""
    backoff = Backoff(pipelines.patience)
    while True:
        try:
            return pipelines.create_run(body), True
        except Lost as error:
            if not backoff.wait():
                raise Unreachable(
                    f"{pipelines.access.endpoint}: run {name} could not be begun: {error}"
                ) from None
        there = [one for one in pipelines.runs(experiment, name) if one["run_id"] not in known]
        if there:
            return there[0], False


def _joined(pipelines: Pipelines, wanted: Submission, runs: list[Json], ui: str) -> Started:
    """The run of this name that lives or succeeded, else the newest."""
    run = max(enumerate(runs), key=lambda pair: (pair[1].get("state") in LIVE, pair[0]))[1]
    running = (run.get("runtime_config") or {}).get("parameters") or {}
    names = sorted({*running, *wanted.parameters})
    differ = [name for name in names if running.get(name) != wanted.parameters.get(name)]
    if differ:
        raise UserError(
            f"run {wanted.name!r} ({run['run_id']}) is there with another {differ[0]}; give this one another --name"
        )
    return _started(pipelines, run, ui, attached=True)


def _started(pipelines: Pipelines, run: Json, ui: str, *, attached: bool) -> Started:
    url = f"{(ui or pipelines.access.endpoint).rstrip('/')}/#/runs/details/{run['run_id']}"
    return Started(run["run_id"], url, str(run.get("state") or "PENDING"), attached, run)


def follow(
    pipelines: Pipelines,
    started: Started,
    timeout_seconds: float | None,
    on_state: Callable[[str], None],
) -> tuple[Started, int]:
    """Wait until the run has ended; returns it and the exit status. `on_state` hears of each
    change.

    The API may be away for half an hour, renew tokens and answer with errors meanwhile. Raises
    Unreachable after that, UserError if the run is deleted.
    """
    patience = pipelines.patience
    pipelines.patience = dataclasses.replace(
        patience, give_up_seconds=max(POLL_GIVE_UP_SECONDS, patience.give_up_seconds)
    )
    deadline = None if timeout_seconds is None else patience.clock() + timeout_seconds
    state = ""
    # Polls are waited for as failing calls are: a run of days needs no look every two seconds.
    poll_pauses = pauses(FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS, factor=1.5)
    while True:
        try:
            run = pipelines.run(started.run_id)
        except Gone:
            raise UserError(f"run {started.run_id} was deleted while it was waited for") from None
        now = str(run.get("state") or "PENDING")
        if now != state:
            state = now
            on_state(state)
        started = dataclasses.replace(started, state=state, run=run)
        if state in EXIT_CODES:
            return started, EXIT_CODES[state]
        pause = next(poll_pauses)
        if deadline is not None and patience.clock() + pause > deadline:
            return started, TIME_IS_UP
        patience.sleep(pause)


def failures(run: Json) -> list[str]:
    """What failed of a run, one line each, as its tasks say."""
    tasks = (run.get("run_details") or {}).get("task_details") or []
    lines = []
    for task in tasks:
        if task.get("state") == "FAILED":
            said = " ".join(str((task.get("error") or {}).get("message") or "failed").split())
            lines.append(f"{task.get('display_name') or task.get('task_id')}: {said[:300]}")
    whole = " ".join(str((run.get("error") or {}).get("message") or "").split())[:300]
    return lines or ([whole] if whole else [])


def as_document(started: Started, wanted: Submission) -> Json:
    """What `--json` prints of a submission."""
    return {
        "run_id": started.run_id,
        "name": wanted.name,
        "state": started.state,
        "url": started.url,
        "attached": started.attached,
        "pipeline": wanted.package.name,
        "version": wanted.version,
        "parameters": wanted.parameters,
        "failures": failures(started.run),
    }
