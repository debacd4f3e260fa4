"""The verdict of a run on a cluster: from the log of its step `report`, else from the store.

The log comes first: whoever may see the run may read it by Kubeflow's API, with the token that is
there. The store often has no way in from outside the cluster, and CI no keys of it.

Other ways were looked at: Kubeflow Pipelines 2.17 has artifacts by its API only through the fields of API v1beta1,
which v2 pipelines do not fill.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from components.cli.cluster.kfp_api import Pipelines
from components.cli.cluster.kfp_calls import Gone, parse_json
from components.cli.cluster.pod_logs import GIVE_UP_SECONDS, ways_to_log
from components.cli.cluster.run_failures import pods_by_step
from components.cli.cluster.submit import Started, Submission
from components.cli.cluster.wait import EXIT_CODES
from components.contracts.run_verdict import RunVerdict, verdict_in
from components.errors import RatchetError, one_line
from components.report.runs import load_run, run_id_of_job
from components.report.verdict import verdict_of_run
from components.runtime.context import make_context
from components.storage import keys

REPORT = "report"
MAX_PODS = 3
"""Of the step's pods the newest are asked: it was tried again where one was deleted."""
NO_LINE = "it has no line with the verdict: an older version wrote it, or it was cut"
_MAX_REASON = 300


@dataclass(frozen=True)
class KnownVerdict:
    """What is known of a run's verdict."""

    verdict: RunVerdict | None
    source: Literal["log", "store", ""]
    """Where it was read, `log` being that of the step `report`; empty: neither could be read."""
    problem: str = ""
    """Reasons why neither could be read."""


class NoVerdict(RatchetError):
    """The log of a run has no verdict."""


def read_verdict(
    pipelines: Pipelines,
    submission: Submission,
    started: Started,
    environment: Mapping[str, str],
) -> KnownVerdict:
    """Return the verdict of a run; without one, the reasons why it could not be read.

    Args:
        pipelines: The API server.
        submission: Names the store.
        started: The run; of one that goes on, only the store is read.
        environment: May hold keys of the store.
    """
    log_problem = "the run has not ended"
    from_log: RunVerdict | None = None
    if started.state in EXIT_CODES:
        try:
            from_log = verdict_from_log(pipelines, started.run_id)
        except (RatchetError, Gone) as error:
            log_problem = one_line(error, _MAX_REASON)
    # After the log was written, only a person's approval changes the outcome.
    if from_log is not None and from_log.status != "waiting for approval":
        return KnownVerdict(from_log, "log")
    store = str(submission.parameters.get("store", ""))
    try:
        return KnownVerdict(
            verdict_from_store(store, started.run_id, environment), "store"
        )
    except RatchetError as error:
        if from_log is not None:
            return KnownVerdict(from_log, "log")
        return KnownVerdict(
            None,
            "",
            f"could not be read from the store: {one_line(error, _MAX_REASON)}; nor from the log "
            f"of {REPORT}: {log_problem}",
        )


def verdict_from_log(pipelines: Pipelines, job_id: str) -> RunVerdict:
    """Return the verdict that the log of a run's step `report` ends with.

    Raises:
        NoVerdict: There is no log, or no verdict of this run in it.
        UserError: The server refuses.
        Gone: There is no such run.
        Unreachable: The server is away.
    """
    with pipelines.giving_up_after(GIVE_UP_SECONDS):
        return _verdict_of_pods(pipelines, job_id)


def _verdict_of_pods(pipelines: Pipelines, job_id: str) -> RunVerdict:
    workflow = pipelines.workflow(job_id)
    pods = pods_by_step(workflow).get(REPORT, [])
    newest_first = sorted(
        pods, key=lambda pod: str(pod.get("finishedAt") or ""), reverse=True
    )
    problems: list[str] = []
    for pod in newest_first[:MAX_PODS]:
        for read_log in ways_to_log(pipelines, job_id, workflow, pod):
            try:
                log = read_log()
            except RatchetError as error:
                problems.append(str(error))
                continue
            for line in _lines_backwards(log):
                verdict = verdict_in(_document_of(line), job_id)
                if verdict is not None:
                    return verdict
            problems.insert(0, NO_LINE)
    if not problems:
        raise NoVerdict(f"{job_id} has no pod of this step")
    # What the UI's server says, and the API.
    raise NoVerdict("; ".join(dict.fromkeys((problems[-1], problems[0]))))


def _lines_backwards(log: str) -> Iterator[str]:
    # Not splitlines, which also splits at letters that a text by others may hold.
    return reversed([line.rstrip("\r") for line in log.split("\n")])


def _document_of(line: str) -> str:
    """Return what a line of the log holds for programs: the field `log` of one in JSON."""
    fields = parse_json(line) if line.startswith("{") else None
    return str(fields.get("log", "")) if isinstance(fields, dict) else line


def verdict_from_store(
    store: str, job_id: str, environment: Mapping[str, str]
) -> RunVerdict | None:
    """Return the verdict of a job's run by its records; None if no step has left one.

    Raises:
        UserError: The store cannot be read from here.
        Transient: It cannot be reached for now.
    """
    context = make_context(store, environment)
    # Look-ups below take an unreadable store for an empty one; this request raises the reason.
    context.store.size(keys.job_key(job_id))
    run_id = run_id_of_job(context, job_id)
    if run_id is None:
        return None
    return verdict_of_run(load_run(context, run_id), job_id)
