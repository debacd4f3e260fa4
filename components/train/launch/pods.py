"""Read from the pods of a TrainJob why they wait, and which rank failed and why.

No message shows a secret.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.errors import Corrupt, RatchetError, Transient, UserError, one_line
from components.train.launch.cluster_api import Cluster, Json, reason_and_message
from components.train.launch.trainjob import (
    CONTAINER,
    REPLICATED_JOB,
    TrainJobSpec,
    pod_selector,
)

SHOWN_LINES = 40
"""Lines of a failed rank's log that the message shows."""
READ_LINES = 200
"""Lines of the log that are read: torchrun adds its own account after the rank's."""
PROGRESS_LINES = 5
"""Lines of node 0's log that are read for its progress: the last may be empty."""
LONGEST_LINE = 300
"""Characters of a line that the message shows."""
MAX_LOGS = 8
"""Failed pods whose logs are read to find the rank that failed first."""
SHORTEST_SECRET = 6
"""Shorter values are not masked."""
KINDS: Mapping[int, type[RatchetError]] = {
    kind.exit_code: kind for kind in (UserError, Corrupt, Transient)
}
RESTART = "jobset.sigs.k8s.io/restart-attempt"
"""Label of the restart of the job that a pod belongs to, by JobSet."""
DISRUPTED = (
    "Evicted",
    "NodeLost",
    "NodeShutdown",
    "Preempting",
    "Shutdown",
    "Terminated",
)
"""Reasons of a failed pod that the cluster took away."""

_TORCHRUN = re.compile(r"torch/distributed/elastic/multiprocessing/\S+\] ")
_ROOT_CAUSE = re.compile(
    r"Root Cause .*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)", re.DOTALL
)
_SECRET_NAME = re.compile(
    r"SECRET|TOKEN|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE
)
_HIDDEN = (
    (re.compile(r"://[^/\s:@]+:[^/\s@]+@"), "://***@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
    (
        re.compile(r"(?i)(x-amz-(?:signature|credential|security-token)=)[^&\s]+"),
        r"\1***",
    ),
    (
        re.compile(
            r"(?i)([\w.-]*(?:secret|passw(?:or)?d|api_?key|access_?key|session_?token|auth_?token"
            r"|hf_token)[\w.-]*[\"']?\s*[=:]\s*[\"']?)[^\s\"',;]+"
        ),
        r"\1***",
    ),
    (
        re.compile(
            r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_\w{20,}|\beyJ[\w-]{10,}\.[\w-]+\.[\w-]+"
        ),
        "***",
    ),
)


@dataclass(frozen=True)
class FailedPod:
    """A pod that failed."""

    pod: str
    node: int
    finished: str
    """RFC 3339, so that text order is time order; empty if unknown."""
    status: int
    """Exit status of its container; 0 if the pod never ran."""
    reason: str
    disrupted: bool
    """The cluster took the pod away: nothing is wrong with the work."""


@dataclass(frozen=True)
class Account:
    """The rank of a node that failed first, by torchrun's account at the end of the node's log."""

    rank: int | None
    status: int
    lines: list[str]
    """Lines that the ranks wrote, without torchrun's account."""


def secret_values(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of variables whose name says that they are secret."""
    return tuple(
        value
        for name, value in environment.items()
        # The id of a key is no secret, and may be a common word: `ratchet` in our manifests.
        if _SECRET_NAME.search(name) and not name.endswith("_KEY_ID")
    )


def waiting_for(cluster: Cluster, spec: TrainJobSpec, name: str) -> list[str]:
    """Return notes about what the nodes of an unfinished job wait for, none when all run."""
    try:
        pods = _latest(cluster.pods(spec.namespace, pod_selector(name)))
        num_missing = spec.num_nodes - len(pods)
        warning = _last_warning(cluster, spec, name) if num_missing else ""
    except Transient:
        # The poll of the job itself finds out whether that lasts.
        return []
    except UserError as error:
        return [f"what the nodes wait for cannot be seen: {error}"]
    if not pods:
        controllers = (
            "the job waits for the Kubeflow Trainer controller or for its queue"
        )
        return [f"no pod yet: {warning or controllers}"]
    restarts = max(_restart(pod) for pod in pods)
    notes = []
    # Without a warning its pods are about to be made.
    if warning:
        notes.append(f"{num_missing} of {spec.num_nodes} nodes have no pod: {warning}")
    if restarts:
        notes.append(
            f"restart {restarts}: every node began again from the last checkpoint"
        )
    phases = Counter(pod["status"].get("phase") for pod in pods)
    pending = [pod for pod in pods if pod["status"].get("phase") == "Pending"]
    reasons = Counter(map(_waits_for, pending))
    for reason, count in reasons.items():
        notes.append(
            f"{phases['Running']} of {spec.num_nodes} nodes run, {count} wait: {reason}"
        )
    return notes


def last_line_of(
    cluster: Cluster, spec: TrainJobSpec, name: str, secrets: Sequence[str]
) -> str:
    """Return the last line that node 0 wrote, its progress; empty where there is none to be seen."""
    try:
        pods = _latest(cluster.pods(spec.namespace, pod_selector(name)))
        running = [pod for pod in pods if pod["status"].get("phase") == "Running"]
        first = next((pod for pod in running if _node_of(pod) == 0), None)
        if first is None:
            return ""
        pod_name = first["metadata"]["name"]
        lines = cluster.log_tail(spec.namespace, pod_name, CONTAINER, PROGRESS_LINES)
    except RatchetError:
        # What may not be seen is said by `waiting_for`, what passes by the poll of the job.
        return ""
    shown = [_hide(line, secrets) for line in lines if line.strip()]
    return shown[-1] if shown else ""


def failure_of(
    cluster: Cluster, spec: TrainJobSpec, name: str, reason: str, secrets: Sequence[str]
) -> RatchetError:
    """Return the exception for a failed job: its first failed rank, status and end of log."""
    summary = f"{spec.task}: TrainJob {spec.namespace}/{name} failed ({one_line(reason, None)})"
    if reason.startswith("TrainingRuntimeNotSupported"):
        return UserError(
            f"{summary}; is there a TrainingRuntime {spec.runtime} in namespace {spec.namespace}?"
        )
    try:
        pods = _latest(cluster.pods(spec.namespace, pod_selector(name)))
        failed_pods = [_failed_pod(pod) for pod in pods if _has_failed(pod)]
        failed_pods.sort(key=lambda failed: (failed.finished, failed.node))
        if not failed_pods:
            return RatchetError(f"{summary}, and none of its pods is left to tell why")
        culprit, account = _first_to_fail(cluster, spec, failed_pods[:MAX_LOGS])
    except RatchetError as error:
        return RatchetError(f"{summary}, and why cannot be seen: {error}")
    if culprit.disrupted:
        return Transient(
            f"{summary}: node {culprit.node} (pod {culprit.pod}) was taken away ({culprit.reason})"
        )
    last_lines = [_hide(line, secrets) for line in account.lines[-SHOWN_LINES:]]
    failed_part = f"node {culprit.node}"
    if account.rank is not None:
        failed_part = f"rank {account.rank} on {failed_part}"
    hint = _hint(account.status, culprit.reason)
    text = f"{summary}: {failed_part} (pod {culprit.pod}) ended with status {account.status}{hint}"
    # The step's own entry point ends with such a line.
    own_errors = [line for line in last_lines if line.startswith("error (")]
    if own_errors:
        text += f": {own_errors[-1]}"
    tail = (
        "\n".join(f"  {line}" for line in last_lines) or "  (its log is empty or gone)"
    )
    kind = KINDS.get(account.status, RatchetError)
    return kind(f"{text}\nthe last lines of its log:\n{tail}")


def _first_to_fail(
    cluster: Cluster, spec: TrainJobSpec, failed_pods: Sequence[FailedPod]
) -> tuple[FailedPod, Account]:
    """Return the pod to blame, with its account."""
    for failed in failed_pods:
        if failed.disrupted:
            return failed, Account(None, failed.status, [])
    suspects = []
    for failed in failed_pods:
        lines = cluster.log_tail(spec.namespace, failed.pod, CONTAINER, READ_LINES)
        suspects.append((failed, _account(failed, lines)))
    # Peers of a failed rank fail within the second, and clocks differ. A rank that ended with one
    # of our own statuses knew why it failed, so it goes before those that only lost a peer.
    for failed, account in suspects:
        if account.status in KINDS:
            return failed, account
    return suspects[0]


def _account(failed: FailedPod, lines: list[str]) -> Account:
    """Read the failed rank and its status from torchrun's account in the log."""
    # torchrun itself ends with 1, whatever status the rank ended with.
    cause = _ROOT_CAUSE.search("\n".join(lines))
    if cause is None:
        return Account(None, failed.status, lines)
    torchrun_lines = (
        index for index, line in enumerate(lines) if _TORCHRUN.search(line)
    )
    first_torchrun_line = next(torchrun_lines, len(lines))
    rank_lines = lines[:first_torchrun_line] or lines
    return Account(rank=int(cause[1]), status=int(cause[2]), lines=rank_lines)


def _hint(status: int, reason: str) -> str:
    if reason == "OOMKilled":
        return " (OOMKilled: the node's memory limit is too small for this training)"
    return " (SIGKILL, most often for want of memory)" if status in (-9, 137) else ""


def _hide(line: str, secrets: Sequence[str]) -> str:
    # First the values that are known, then whatever looks like one.
    for value in secrets:
        if len(value) >= SHORTEST_SECRET:
            line = line.replace(value, "***")
    for pattern, replacement in _HIDDEN:
        line = pattern.sub(replacement, line)
    printable = "".join(letter for letter in line.expandtabs(4) if letter.isprintable())
    return printable[:LONGEST_LINE]


def _latest(pods: list[Json]) -> list[Json]:
    """Return the pods of the latest restart; those of earlier ones may still be going."""
    # JobSet begins every node again after a failure, and old pods take a while to go.
    latest_restart = max(map(_restart, pods), default=0)
    return [pod for pod in pods if _restart(pod) == latest_restart]


def _restart(pod: Json) -> int:
    labels = pod["metadata"].get("labels") or {}
    return int(labels.get(RESTART, 0))


def _container(pod: Json) -> Json:
    """Return the status of the container that trains, empty before it is known."""
    statuses = pod["status"].get("containerStatuses") or []
    return next((status for status in statuses if status.get("name") == CONTAINER), {})


def _terminated(pod: Json) -> Json:
    state = _container(pod).get("state") or {}
    terminated: Json = state.get("terminated") or {}
    return terminated


def _has_failed(pod: Json) -> bool:
    if pod["status"].get("phase") == "Failed":
        return True
    # A pod whose container failed may be running on for its other containers.
    return bool(_terminated(pod).get("exitCode"))


def _failed_pod(pod: Json) -> FailedPod:
    status = pod["status"]
    terminated = _terminated(pod)
    disruption = _disruption(pod)
    disruption_reason = disruption.get("reason") if disruption else ""
    return FailedPod(
        pod=pod["metadata"]["name"],
        node=_node_of(pod),
        finished=str(terminated.get("finishedAt") or ""),
        status=int(terminated.get("exitCode", 0)),
        reason=str(
            status.get("reason") or disruption_reason or terminated.get("reason") or ""
        ),
        disrupted=disruption is not None or status.get("reason") in DISRUPTED,
    )


def _node_of(pod: Json) -> int:
    """Return the number of the node that a pod is."""
    metadata = pod["metadata"]
    # Kubernetes writes the index as an annotation, newer releases also as a label.
    marks: dict[str, str] = {}
    marks.update(metadata.get("annotations") or {})
    marks.update(metadata.get("labels") or {})
    return int(marks.get("batch.kubernetes.io/job-completion-index", 0))


def _disruption(pod: Json) -> Json | None:
    """Return the condition that says that the cluster takes the pod away, or None."""
    conditions: list[Json] = pod["status"].get("conditions") or []
    for condition in conditions:
        if (
            condition.get("type") == "DisruptionTarget"
            and condition.get("status") == "True"
        ):
            return condition
    return None


def _waits_for(pod: Json) -> str:
    for condition in pod["status"].get("conditions") or []:
        if (
            condition.get("type") == "PodScheduled"
            and condition.get("status") == "False"
        ):
            return reason_and_message(condition)
    state = _container(pod).get("state") or {}
    waiting = state.get("waiting") or {}
    words = filter(None, (waiting.get("reason"), waiting.get("message")))
    return ": ".join(words) or "its containers are being made"


def _last_warning(cluster: Cluster, spec: TrainJobSpec, name: str) -> str:
    """Return the last warning about the TrainJob, or about the Job that makes its pods, or ""."""
    pod_job = f"{name}-{REPLICATED_JOB}-0"
    events = cluster.warnings(spec.namespace, name)
    events += cluster.warnings(spec.namespace, pod_job)
    if not events:
        return ""
    last = max(events, key=_event_time)
    return reason_and_message(last)


def _event_time(event: Json) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")
