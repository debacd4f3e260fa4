"""The `schedule` verb: create, update or delete the recurring run of a name."""

from __future__ import annotations

import re
from typing import Literal

from components.cli.cluster.kfp_api import Pipelines
from components.cli.cluster.kfp_calls import Lost, Unreachable
from components.cli.cluster.submit import Submission
from components.cli.json_documents import Json, nested
from components.errors import UserError
from components.retry import Backoff

_FIELD = r"(\*|\?|[0-9A-Za-z,*/-]+)"
_SPECIAL = re.compile(r"@(hourly|daily|weekly|monthly|yearly|every \d+[smh])")
Outcome = Literal["created", "replaced", "unchanged", "removed", "disabled", "absent"]
_HAS_ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")


def checked_cron(text: str) -> str:
    """Return a cron expression of six fields, the first one seconds. Raises UserError.

    Kubeflow's scheduler reads six; the usual five get a 0 in front.
    """
    words = text.split()
    if _SPECIAL.fullmatch(text.strip()):
        return text.strip()
    if len(words) == 5:
        words = ["0", *words]
    are_fields = all(re.fullmatch(_FIELD, word) for word in words)
    if len(words) != 6 or not are_fields:
        raise UserError(
            f"--cron {text!r}: five fields (minute hour day month weekday), or six with seconds in "
            "front; for example '0 3 * * 1' for Mondays at 3 UTC"
        )
    return " ".join(words)


def schedule(
    pipelines: Pipelines, submission: Submission, name: str, cron: str
) -> tuple[Outcome, str]:
    """Create or update the recurring run of this name. Idempotent.

    Runs of an earlier schedule go on. As long as one does, the earlier schedule is there too,
    disabled: the next call deletes it.

    Args:
        pipelines: The API server.
        submission: Package, parameters and account of each run.
        name: Exactly one recurring run of this name is left enabled.
        cron: Six fields, as `checked_cron` returns them.

    Returns:
        What was done, and the id of the recurring run.

    Raises:
        UserError: The server refuses.
        Unreachable: The server does not answer.
    """
    experiment = pipelines.experiment(submission.experiment)
    package = submission.package
    pipeline_id, version_id = pipelines.version(
        package.name, submission.version, package.text
    )
    body: Json = {
        "display_name": name,
        "description": submission.description,
        "experiment_id": experiment,
        "pipeline_version_reference": {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": version_id,
        },
        "runtime_config": {"parameters": submission.parameters},
        "service_account": submission.service_account,
        "trigger": {"cron_schedule": {"cron": cron}},
        # One campaign at a time on one store; runs missed while the schedule was off are not
        # made up for.
        "max_concurrency": "1",
        "no_catchup": True,
        "mode": "ENABLE",
    }
    existing = pipelines.schedules(experiment, name)
    equal = [
        recurring_run for recurring_run in existing if _is_equal(recurring_run, body)
    ]
    # KFP cannot change a recurring run. The new one is made before the old ones are deleted, so
    # that a failure in between leaves one schedule too many, not none.
    current_id = (
        equal[0]["recurring_run_id"] if equal else _create(pipelines, experiment, body)
    )
    changed = [
        _put_away(pipelines, experiment, recurring_run)
        for recurring_run in existing
        if recurring_run["recurring_run_id"] != current_id
    ]
    if equal and not any(changed):
        return "unchanged", current_id
    return ("replaced" if existing else "created"), current_id


def unschedule(pipelines: Pipelines, experiment_name: str, name: str) -> Outcome:
    """Delete the recurring runs of this name. Idempotent.

    Returns:
        What was done: "disabled" if a run of one goes on; another call deletes it after that.
    """
    experiment = pipelines.experiment(experiment_name)
    existing = pipelines.schedules(experiment, name)
    for recurring_run in existing:
        _put_away(pipelines, experiment, recurring_run)
    if not existing:
        return "absent"
    return "disabled" if pipelines.schedules(experiment, name) else "removed"


def _put_away(pipelines: Pipelines, experiment: str, recurring_run: Json) -> bool:
    """Delete a recurring run, or disable it as long as a run of it goes on.

    Returns:
        Whether it is another one now than before.
    """
    # Its object in the cluster owns the Workflows that it began: with it Kubernetes deletes their
    # pods, in the middle of a training, and Kubeflow shows the run as running for ever (2.17).
    schedule_id = recurring_run["recurring_run_id"]
    runs = pipelines.runs_of_schedule(experiment, schedule_id)
    if all(run.get("state") in _HAS_ENDED for run in runs):
        pipelines.delete_schedule(schedule_id)
        return True
    if not _is_enabled(recurring_run):
        return False
    pipelines.disable_schedule(schedule_id)
    return True


def _create(pipelines: Pipelines, experiment: str, body: Json) -> str:
    """Create a recurring run; after an answer that got lost, look for it before trying again."""
    backoff = Backoff(pipelines.patience)
    name = body["display_name"]
    while True:
        try:
            return str(pipelines.create_schedule(body)["recurring_run_id"])
        except Lost as error:
            if not backoff.wait():
                raise Unreachable(
                    f"{pipelines.access.endpoint}: schedule {name} could not be made: {error}"
                ) from None
        for recurring_run in pipelines.schedules(experiment, name):
            if _is_equal(recurring_run, body):
                return str(recurring_run["recurring_run_id"])


def _is_equal(recurring_run: Json, body: Json) -> bool:
    """Return whether a recurring run on the server is the one that `body` would create."""
    return _settings(recurring_run) == _settings(body)


def _settings(recurring_run: Json) -> tuple[object, ...]:
    # The server sends numbers of 64 bits as text.
    return (
        recurring_run.get("pipeline_version_reference"),
        nested(recurring_run, "runtime_config").get("parameters"),
        nested(recurring_run, "trigger", "cron_schedule").get("cron"),
        recurring_run.get("service_account"),
        str(recurring_run.get("max_concurrency")),
        recurring_run.get("no_catchup"),
        _is_enabled(recurring_run),
    )


def _is_enabled(recurring_run: Json) -> bool:
    # A body says `mode`, the server's answer `status`.
    return (
        recurring_run.get("mode") == "ENABLE"
        or recurring_run.get("status") == "ENABLED"
    )
