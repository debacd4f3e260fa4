"""Failed steps of a run on a cluster: which, with what words, and whether the cause may pass.

The API v2beta1 names the tasks of a run and their states, never a reason (Kubeflow Pipelines 2.17
converts Argo's nodes without their messages). The messages stand in the Workflow, which only the
API v1beta1 returns.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from components.cli.cluster.kfp_api import Pipelines
from components.cli.cluster.kfp_calls import Gone
from components.cli.cluster.pod_logs import GIVE_UP_SECONDS, ways_to_log
from components.cli.json_documents import Json, nested
from components.errors import RatchetError, Transient, one_line
from components.report.runs import load_run, run_id_of_job
from components.report.views import TaskView
from components.runtime.context import make_context
from components.runtime.log_lines import message_of
from components.runtime.supervisor import MAX_DEATHS

_MESSAGE_CHARACTERS = 300
_ENDED_BADLY = ("Failed", "Error")
# KFP runs the container of a step as the node `executor` below a node of the step's name.
_EXECUTOR = re.compile(r"executor(\(\d+\))?")
# As a step says it, in the message of a line of its log.
_ERROR = re.compile(r"error \((?P<kind>\w+)\): (?P<message>.+)")
_MOST_LOGS = 5
_TRY_NUMBER = re.compile(r"\(\d+\)$")
# Words of kubelet, the node's shutdown, the scheduler's preemption and Argo.
_MAY_PASS = re.compile(
    r"OOMKilled|Evicted|node was low on resource|pod deleted|node (is )?shut ?down|node lost"
    r"|Preempt|exit code (75|137|143)\b",
    re.IGNORECASE,
)
# An emptyDir over its size evicts the pod again each time.
_COMES_BACK = re.compile(r"exceeds the (total )?limit", re.IGNORECASE)


@dataclass(frozen=True)
class StepFailure:
    """A step that failed and was not tried again with success."""

    step: str
    """Name of the task in the pipeline: `train-r1`, or `train-r1-driver` for KFP's own pod."""
    message: str
    """Words of Kubernetes or, where its log or the store can be read, of the step itself."""
    may_pass: bool
    """The same run may succeed if it is begun again."""

    def __str__(self) -> str:
        return f"{self.step}: {self.message or 'failed'}"


def failed_steps(workflow: Json) -> tuple[StepFailure, ...]:
    """Return the failed steps of an Argo Workflow, in order of their names.

    Args:
        workflow: The Workflow with its status; large ones have their nodes compressed.
    """
    failures = []
    for step, pods in sorted(pods_by_step(workflow).items()):
        if any(pod.get("phase") == "Succeeded" for pod in pods):
            continue
        last_pod = _last_bad_pod(pods)
        if last_pod is not None:
            message = " ".join(str(last_pod.get("message") or "").split())
            may_pass = bool(_MAY_PASS.search(message)) and not _COMES_BACK.search(
                message
            )
            failures.append(StepFailure(step, message[:_MESSAGE_CHARACTERS], may_pass))
    return tuple(failures)


def _last_bad_pod(pods: Sequence[Json]) -> Json | None:
    bad_pods = [pod for pod in pods if pod.get("phase") in _ENDED_BADLY]
    return max(bad_pods, key=lambda pod: str(pod.get("finishedAt") or ""), default=None)


def pods_by_step(workflow: Json) -> dict[str, list[Json]]:
    """Return the nodes of a Workflow that are pods, by the name of their step in the pipeline."""
    nodes = _nodes(workflow)
    pods: dict[str, list[Json]] = {}
    for node in nodes.values():
        if node.get("type") == "Pod":
            pods.setdefault(_step_of(node, nodes), []).append(node)
    return pods


def explained_by_logs(
    pipelines: Pipelines,
    run_id: str,
    workflow: Json,
    failures: Sequence[StepFailure],
) -> tuple[StepFailure, ...]:
    """Return the failures in the steps' own words, where their logs can be read.

    To Kubernetes every failure of a step is "exit code 1": KFP's launcher ends with it. The last
    error in the step's log says what is wrong, and its type whether it may pass.
    """
    pods = pods_by_step(workflow)
    explained = list(failures)
    with pipelines.giving_up_after(GIVE_UP_SECONDS):
        for number, failure in enumerate(failures[:_MOST_LOGS]):
            # Where Kubernetes ended the pod, an error in its log is of an earlier try.
            if failure.may_pass or _COMES_BACK.search(failure.message):
                continue
            pod = _last_bad_pod(pods[failure.step])
            reads = ways_to_log(pipelines, run_id, workflow, pod) if pod else []
            explained[number] = _in_own_words(failure, reads)
    return tuple(explained)


def _in_own_words(
    failure: StepFailure, reads: Sequence[Callable[[], str]]
) -> StepFailure:
    """Return a failure by the first log that can be read and has an error of the step."""
    for read_log in reads:
        try:
            error = _last_error(read_log())
        except (RatchetError, Gone):
            continue
        if error is not None:
            message = one_line(error["message"], _MESSAGE_CHARACTERS)
            may_pass = error["kind"] == Transient.__name__
            return replace(failure, message=message, may_pass=may_pass)
    return failure


def _last_error(log: str) -> re.Match[str] | None:
    """Return type and message of the last error that a step says in its log, None without one."""
    messages = (message_of(line.rstrip("\r")) for line in reversed(log.split("\n")))
    errors = (_ERROR.fullmatch(" ".join(message.split())) for message in messages)
    return next(filter(None, errors), None)


def explained_by_store(
    failures: Sequence[StepFailure],
    store: str,
    job_id: str,
    environment: Mapping[str, str],
) -> tuple[StepFailure, ...]:
    """Return the failures in the steps' own words, where the store can be read from here.

    The step's attempt record tells a fault that may pass from a wrong input; a record without an
    end is of a try that was killed, which may pass too.
    """
    try:
        context = make_context(store, environment)
        run_id = run_id_of_job(context, job_id)
        tasks = [] if run_id is None else load_run(context, run_id).tasks
    except RatchetError:
        # CI often has no keys of the store. What Kubernetes says is there.
        return tuple(failures)
    return tuple(_explained(failure, tasks) for failure in failures)


def _explained(failure: StepFailure, tasks: Sequence[TaskView]) -> StepFailure:
    if _COMES_BACK.search(failure.message):
        # An evicted step is told to end, and records that as a fault that may pass.
        return failure
    # The shards of one step are tasks of their own: generate-r1-s0.
    name = re.compile(re.escape(failure.step) + r"(-s\d+)?")
    own_tasks = [task for task in tasks if name.fullmatch(task.name)]
    failed = [task.last for task in own_tasks if task.last.error]
    for attempt in failed:
        failure = replace(
            failure,
            message=" ".join(attempt.error.split())[:_MESSAGE_CHARACTERS],
            may_pass=failure.may_pass or attempt.error_kind == Transient.__name__,
        )
    num_deaths = max((task.num_deaths for task in own_tasks), default=0)
    if failed or not num_deaths:
        return failure
    return replace(
        failure,
        message=f"{failure.message} (killed: its last try left no word)".strip(),
        # After more deaths in a row its supervisor had given up.
        may_pass=failure.may_pass or num_deaths <= MAX_DEATHS,
    )


def _nodes(workflow: Json) -> dict[str, Json]:
    status = nested(workflow, "status")
    compressed = status.get("compressedNodes")
    if compressed:
        # Argo's form for workflows that do not fit into one object of Kubernetes.
        nodes: dict[str, Json] = json.loads(
            gzip.decompress(base64.b64decode(compressed))
        )
        return nodes
    return dict(status.get("nodes") or {})


def _step_of(pod: Json, nodes: dict[str, Json]) -> str:
    name = str(pod.get("displayName") or pod.get("name") or "")
    if _EXECUTOR.fullmatch(name):
        boundary = nodes.get(str(pod.get("boundaryID")), {})
        name = str(boundary.get("displayName") or name)
    return _TRY_NUMBER.sub("", name)
