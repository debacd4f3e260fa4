"""What the pods of a TrainJob tell: why they wait, and which rank failed and why. No secret is
shown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.errors import Corrupt, RatchetError, Transient, UserError
from components.train.launch.cluster_api import Cluster, Json
from components.train.launch.trainjob import CONTAINER, REPLICATED_JOB, TrainJobSpec, pod_selector

SHOWN_LINES, READ_LINES, LONGEST_LINE = 40, 200, 300
"""Of the log of a failed rank: shown, read (torchrun adds its own account after the rank's),
characters of a line."""
LOOKED_AT = 8
"""Failed pods whose logs are read to find the rank that failed first."""
SHORTEST_SECRET = 6
KINDS: Mapping[int, type[RatchetError]] = {
    kind.exit_code: kind for kind in (UserError, Corrupt, Transient)
}
RESTART = "jobset.sigs.k8s.io/restart-attempt"
DISRUPTED = ("Evicted", "NodeLost", "NodeShutdown", "Preempting", "Shutdown", "Terminated")

_TORCHRUN = re.compile(r"torch/distributed/elastic/multiprocessing/\S+\] ")
_ROOT_CAUSE = re.compile(r"Root Cause .*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)", re.DOTALL)
_SECRET_NAME = re.compile(
    r"SECRET|TOKEN|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE
)
_HIDDEN = (
    (re.compile(r"://[^/\s:@]+:[^/\s@]+@"), "://***@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"(?i)(x-amz-(?:signature|credential|security-token)=)[^&\s]+"), r"\1***"),
    (
        re.compile(
            r"(?i)([\w.-]*(?:secret|passw(?:or)?d|api_?key|access_?key|session_?token|auth_?token|hf_token)[\w.-]*"
            r"[\"']?\s*[=:]\s*[\"']?)[^\s\"',;]+"
        ),
        r"\1***",
    ),
    (
        re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_\w{20,}|\beyJ[\w-]{10,}\.[\w-]+\.[\w-]+"),
        "***",
    ),
)


@dataclass(frozen=True)
class Ended:
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
    """Which rank of a node failed first, by torchrun's account at the end of the node's log."""

    rank: int | None
    status: int
    lines: list[str]
    """What the ranks wrote, without torchrun's account."""


def secret_values(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Values of variables whose name says that they are secret."""
    return tuple(value for name, value in environment.items() if _SECRET_NAME.search(name))


def one_line(text: str) -> str:
    """Text of a server, fit for one line of a terminal."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def waiting_for(cluster: Cluster, spec: TrainJobSpec, name: str) -> list[str]:
    """What the nodes of a job that goes on wait for, as notes; empty when all of them run."""
    try:
        pods = _latest(cluster.pods(spec.namespace, pod_selector(name)))
        if not pods:
            return [f"no pod yet: {_why_no_pod(cluster, spec, name)}"]
    except Transient:
        return []  # the poll of the job itself finds out whether that lasts
    except UserError as error:
        return [f"what the nodes wait for cannot be seen: {error}"]
    restarts = max(_restart(pod) for pod in pods)
    notes = (
        [f"restart {restarts}: every node began again from the last checkpoint"] if restarts else []
    )
    running = sum(pod["status"].get("phase") == "Running" for pod in pods)
    waiting = Counter(_waits_for(pod) for pod in pods if pod["status"].get("phase") == "Pending")
    notes += [
        f"{running} of {spec.num_nodes} nodes run, {count} wait: {why}"
        for why, count in waiting.items()
    ]
    return notes


def failure_of(
    cluster: Cluster, spec: TrainJobSpec, name: str, reason: str, secrets: Sequence[str]
) -> RatchetError:
    """Why a failed job failed: the first rank that did, its status, and the tail of its log."""
    what = f"{spec.task}: TrainJob {spec.namespace}/{name} failed ({one_line(reason)})"
    if reason.startswith("TrainingRuntimeNotSupported"):
        return UserError(
            f"{what}; is there a TrainingRuntime {spec.runtime} in namespace {spec.namespace}?"
        )
    try:
        pods = _latest(cluster.pods(spec.namespace, pod_selector(name)))
        ended = sorted(
            (_ended(pod) for pod in pods if _has_failed(pod)),
            key=lambda one: (one.finished, one.node),
        )
        if not ended:
            return RatchetError(f"{what}, and none of its pods is left to tell why")
        culprit, account = _first_to_fail(cluster, spec, ended[:LOOKED_AT])
    except RatchetError as error:
        return RatchetError(f"{what}, and why cannot be seen: {error}")
    if culprit.disrupted:
        return Transient(
            f"{what}: node {culprit.node} (pod {culprit.pod}) was taken away ({culprit.reason})"
        )
    shown = [_hide(line, secrets) for line in account.lines[-SHOWN_LINES:]]
    own_words = next((line for line in reversed(shown) if line.startswith("error (")), "")
    who = (
        f"rank {account.rank} on node {culprit.node}"
        if account.rank is not None
        else f"node {culprit.node}"
    )
    text = f"{what}: {who} (pod {culprit.pod}) ended with status {account.status}{_hint(account.status, culprit.reason)}"
    tail = "\n".join(f"  {line}" for line in shown) or "  (its log is empty or gone)"
    kind = KINDS.get(account.status, RatchetError)
    return kind(
        f"{text}{': ' + own_words if own_words else ''}\nthe last lines of its log:\n{tail}"
    )


def _first_to_fail(
    cluster: Cluster, spec: TrainJobSpec, ended: Sequence[Ended]
) -> tuple[Ended, Account]:
    """The pod to blame. Peers of a failed rank fail within the second, and clocks differ: a rank
    that ended with a status of ours knew why it failed, so it goes before those that only lost a
    peer."""
    for one in ended:
        if one.disrupted:
            return one, Account(None, one.status, [])
    accounts = [
        _account(one, cluster.log_tail(spec.namespace, one.pod, CONTAINER, READ_LINES))
        for one in ended
    ]
    both = list(zip(ended, accounts, strict=True))
    return next((pair for pair in both if pair[1].status in KINDS), both[0])


def _account(one: Ended, lines: list[str]) -> Account:
    """torchrun ends with 1 whatever a rank ended with, so the rank and its status are read from its
    account."""
    cause = _ROOT_CAUSE.search("\n".join(lines))
    own = next((index for index, line in enumerate(lines) if _TORCHRUN.search(line)), len(lines))
    if cause is None:
        return Account(None, one.status, lines)
    return Account(int(cause[1]), int(cause[2]), lines[:own] or lines)


def _hint(status: int, reason: str) -> str:
    if reason == "OOMKilled":
        return " (OOMKilled: the node's memory limit is too small for this training)"
    return " (SIGKILL, most often for want of memory)" if status in (-9, 137) else ""


def _hide(line: str, secrets: Sequence[str]) -> str:
    for value in secrets:
        if len(value) >= SHORTEST_SECRET:
            line = line.replace(value, "***")
    for pattern, instead in _HIDDEN:
        line = pattern.sub(instead, line)
    return "".join(letter for letter in line.expandtabs(4) if letter.isprintable())[:LONGEST_LINE]


def _latest(pods: list[Json]) -> list[Json]:
    """Pods of the latest restart; those of earlier ones may still be going."""
    last = max(map(_restart, pods), default=0)
    return [pod for pod in pods if _restart(pod) == last]


def _restart(pod: Json) -> int:
    return int((pod["metadata"].get("labels") or {}).get(RESTART, 0))


def _container(pod: Json) -> Json:
    """Status of the container that trains; empty before it is known."""
    statuses = pod["status"].get("containerStatuses") or []
    return next((one for one in statuses if one.get("name") == CONTAINER), {})


def _terminated(pod: Json) -> Json:
    found: Json = (_container(pod).get("state") or {}).get("terminated") or {}
    return found


def _has_failed(pod: Json) -> bool:
    return bool(pod["status"].get("phase") == "Failed" or _terminated(pod).get("exitCode"))


def _ended(pod: Json) -> Ended:
    status, terminated = pod["status"], _terminated(pod)
    conditions = status.get("conditions") or []
    taken = [
        one
        for one in conditions
        if one.get("type") == "DisruptionTarget" and one.get("status") == "True"
    ]
    reason = str(
        status.get("reason")
        or (taken[0].get("reason") if taken else "")
        or terminated.get("reason")
        or ""
    )
    metadata = pod["metadata"]
    marks = {**(metadata.get("annotations") or {}), **(metadata.get("labels") or {})}
    return Ended(
        pod=metadata["name"],
        node=int(marks.get("batch.kubernetes.io/job-completion-index", 0)),
        finished=str(terminated.get("finishedAt") or ""),
        status=int(terminated.get("exitCode", 0)),
        reason=reason,
        disrupted=bool(taken) or status.get("reason") in DISRUPTED,
    )


def _waits_for(pod: Json) -> str:
    for condition in pod["status"].get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}"
    waiting = (_container(pod).get("state") or {}).get("waiting") or {}
    return (
        ": ".join(filter(None, (waiting.get("reason"), waiting.get("message"))))
        or "its containers are being made"
    )


def _why_no_pod(cluster: Cluster, spec: TrainJobSpec, name: str) -> str:
    """The last warning about the TrainJob, or about the Job that makes its pods."""
    events = cluster.warnings(spec.namespace, name) + cluster.warnings(
        spec.namespace, f"{name}-{REPLICATED_JOB}-0"
    )
    if not events:
        return "the job waits for the Kubeflow Trainer controller or for its queue"
    last = max(
        events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or "")
    )
    return f"{last.get('reason', '')}: {last.get('message', '')}"
