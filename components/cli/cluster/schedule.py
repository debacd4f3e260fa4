"""The `schedule` verb: a recurring run by its name, which says itself what it does: said twice,
nothing changes."""

from __future__ import annotations

import re
from typing import Literal

from components.cli.cluster.kfp_api import Json, Lost, Pipelines, Unreachable
from components.cli.cluster.submit import Submission
from components.errors import UserError
from components.retry import Backoff

_FIELD = r"(\*|\?|[0-9A-Za-z,*/-]+)"
_SPECIAL = re.compile(r"@(hourly|daily|weekly|monthly|yearly|every \d+[smh])")
Outcome = Literal["created", "replaced", "unchanged", "removed", "absent"]


def checked_cron(text: str) -> str:
    """Six fields, the first one seconds, as Kubeflow's scheduler reads them; the usual five get a 0
    in front. Raises UserError."""
    words = text.split()
    if _SPECIAL.fullmatch(text.strip()):
        return text.strip()
    if len(words) == 5:
        words = ["0", *words]
    if len(words) != 6 or not all(re.fullmatch(_FIELD, word) for word in words):
        raise UserError(
            f"--cron {text!r}: five fields (minute hour day month weekday), or six with seconds in front; for example "
            "'0 3 * * 1' for Mondays at 3 UTC"
        )
    return " ".join(words)


def schedule(pipelines: Pipelines, wanted: Submission, name: str, cron: str) -> tuple[Outcome, str]:
    """Have exactly one recurring run of this name, with this package, cron and parameters; returns
    what was done and its id.

    At most one of its runs is under way at a time, and none is made up for while it was off.
    Recurring runs cannot be changed: one that differs is made anew before the old ones are deleted.
    Their finished runs stay.
    """
    experiment = pipelines.experiment(wanted.experiment)
    pipeline_id, version_id = pipelines.version(
        wanted.package.name, wanted.version, wanted.package.text
    )
    body: Json = {
        "display_name": name,
        "description": wanted.description,
        "experiment_id": experiment,
        "pipeline_version_reference": {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": version_id,
        },
        "runtime_config": {"parameters": wanted.parameters},
        "service_account": wanted.service_account,
        "trigger": {"cron_schedule": {"cron": cron}},
        "max_concurrency": "1",
        "no_catchup": True,
        "mode": "ENABLE",
    }
    there = pipelines.schedules(experiment, name)
    same = [one for one in there if _alike(one, body)]
    kept = same[0]["recurring_run_id"] if same else _create(pipelines, experiment, name, body)
    others = [one["recurring_run_id"] for one in there if one["recurring_run_id"] != kept]
    for other in others:
        pipelines.delete_schedule(other)
    if same and not others:
        return "unchanged", kept
    return ("replaced" if there else "created"), kept


def unschedule(pipelines: Pipelines, wanted_experiment: str, name: str) -> Outcome:
    """Delete the recurring runs of this name."""
    there = pipelines.schedules(pipelines.experiment(wanted_experiment), name)
    for one in there:
        pipelines.delete_schedule(one["recurring_run_id"])
    return "removed" if there else "absent"


def _create(pipelines: Pipelines, experiment: str, name: str, body: Json) -> str:
    backoff = Backoff(pipelines.patience)
    while True:
        try:
            return str(pipelines.create_schedule(body)["recurring_run_id"])
        except Lost as error:
            if not backoff.wait():
                raise Unreachable(
                    f"{pipelines.access.endpoint}: schedule {name} could not be made: {error}"
                ) from None
        made = [one for one in pipelines.schedules(experiment, name) if _alike(one, body)]
        if made:
            return str(made[0]["recurring_run_id"])


def _alike(there: Json, wanted: Json) -> bool:
    """Whether a recurring run is the one that is wanted, as far as the server tells."""

    def facts(one: Json) -> tuple[object, ...]:
        enabled = one.get("mode") == "ENABLE" or one.get("status") == "ENABLED"
        return (
            one.get("pipeline_version_reference"),
            (one.get("runtime_config") or {}).get("parameters"),
            ((one.get("trigger") or {}).get("cron_schedule") or {}).get("cron"),
            one.get("service_account"),
            str(one.get("max_concurrency")),
            one.get("no_catchup"),
            enabled,
        )

    return facts(there) == facts(wanted)
