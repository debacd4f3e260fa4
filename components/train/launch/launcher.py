"""Training on many nodes: a TrainJob of Kubeflow Trainer v2, created or found again, followed, and
released.

The job's name is made from the step key and the store, so a retry or a second launcher of the same
work finds the same job and attaches to it. What it trains is committed to the store by its rank 0;
nothing is read from the job but its state. Each node runs `torchrun`, which the Trainer's torch
policy tells of its peers by PET_* variables (PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK,
PET_MASTER_ADDR, PET_MASTER_PORT), none of which are set here.

The launcher's service account needs create, get, delete on trainjobs.trainer.kubeflow.org; list on
pods and events and get on pods/log only serve messages: without them training works and says what
it may not see.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from components.errors import RatchetError, Transient, UserError
from components.runtime.progress import Progress
from components.train.launch.cluster_api import Cluster, Json
from components.train.launch.pods import failure_of, one_line, waiting_for
from components.train.launch.trainjob import (
    STEP_KEY,
    TrainJobSpec,
    job_name,
    manifest,
    pod_selector,
)

CREATIONS = 10
"""How often a job that keeps appearing and vanishing is tried to be created before the step is
Transient."""


def follow_train_job(
    spec: TrainJobSpec,
    cluster: Cluster,
    progress: Progress,
    *,
    secrets: Sequence[str] = (),
    has_receipt: Callable[[], bool] = lambda: True,
) -> None:
    """Have the TrainJob of this step run to its end, whoever created it; returns when it is
    Complete.

    A job that is found running is attached to; found failed, or Complete though `has_receipt` says
    that the store lacks its result, it is deleted and created anew. Suspended, queued or
    unschedulable it is waited for, with notes that say why. SIGTERM and KeyboardInterrupt delete it
    (its checkpoints stay in the store) and free its nodes. `secrets` are values that no message may
    show.

    Raises UserError (no permission, no Trainer, another step's job of this name, or rank ended with
    status 2), Corrupt (a rank's status 3), Transient (a rank's status 75, the job vanished, the API
    is unreachable, SIGTERM), RatchetError for any other failure; each failure of a rank holds the
    tail of its log.
    """
    _Follower(spec, cluster, progress, tuple(secrets), has_receipt).run()


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception that no handler of ordinary errors swallows."""


@dataclass
class _Follower:
    spec: TrainJobSpec
    cluster: Cluster
    progress: Progress
    secrets: tuple[str, ...]
    has_receipt: Callable[[], bool]
    name: str = ""
    uid: str = ""
    """The job that was created or attached to; empty until then and after its end."""
    asked: bool = False
    """A creation is on its way, whose answer may never arrive."""
    said: set[str] = field(default_factory=set)

    def run(self) -> None:
        self.name = job_name(self.spec)
        with _sigterm_raises():
            try:
                self._watch(self._obtain())
            except KeyboardInterrupt as cancelled:
                self._release()
                if isinstance(cancelled, _Terminated):
                    raise Transient(
                        f"{self.spec.task}: cancelled by SIGTERM; the same call starts it again"
                    ) from None
                raise

    def _obtain(self) -> Json:
        """The job of this step, created or found."""
        for _ in range(CREATIONS):
            self.asked = True
            created = self.cluster.create_job(self.spec.namespace, manifest(self.spec))
            self.asked = False
            if created is not None:
                return self._adopt(created, "created")
            found = self.cluster.read_job(self.spec.namespace, self.name)
            if found is None:
                continue
            self._check_owner(found)
            state, reason = _state(found)
            if found["metadata"].get("deletionTimestamp"):
                self._wait_until_gone(found, "is being deleted")
            elif state == "Failed" or (state == "Complete" and not self.has_receipt()):
                why = (
                    f"had failed ({reason})"
                    if state == "Failed"
                    else "is complete, but its receipt is not in the store"
                )
                self.cluster.delete_job(
                    self.spec.namespace, self.name, found["metadata"]["uid"], "Foreground"
                )
                self._wait_until_gone(found, f"{why}; it is deleted and created anew")
            else:
                return self._adopt(found, "found and attached to")
        raise Transient(
            f"{self.spec.task}: {self._shown_name} vanished {CREATIONS} times as it was created; try again"
        )

    def _adopt(self, job: Json, how: str) -> Json:
        self.uid = job["metadata"]["uid"]
        self._note(f"{self._shown_name} {how} ({self.spec.num_nodes} nodes)")
        return job

    def _check_owner(self, job: Json) -> None:
        theirs = (job["metadata"].get("annotations") or {}).get(STEP_KEY)
        if theirs != self.spec.step_key:
            raise UserError(
                f"{self._shown_name} belongs to {f'step {theirs}' if theirs else 'something else'}, not to step "
                f"{self.spec.step_key}; rename or delete it, or train in another namespace"
            )

    def _wait_until_gone(self, job: Json, why: str) -> None:
        self._note(f"{self._shown_name} {why}")
        patience, uid = self.cluster.patience, job["metadata"]["uid"]
        deadline = patience.clock() + patience.removal_seconds
        while (left := self.cluster.read_job(self.spec.namespace, self.name)) and left["metadata"][
            "uid"
        ] == uid:
            if patience.clock() > deadline:
                raise Transient(
                    f"{self._shown_name} is not gone after {patience.removal_seconds:.0f} s; see what holds its pods "
                    f"(kubectl -n {self.spec.namespace} get pods -l {pod_selector(self.name)}) and try again"
                )
            patience.sleep(patience.poll_seconds)

    def _watch(self, job: Json) -> None:
        patience, looked = self.cluster.patience, self.cluster.patience.clock()
        while True:
            state, reason = _state(job)
            if state in ("Complete", "Failed"):
                self.uid = ""
            if state == "Complete":
                self._note(f"{self._shown_name} is complete")
                return
            if state == "Failed":
                raise failure_of(self.cluster, self.spec, self.name, reason, self.secrets)
            if state == "Suspended":
                self._note(f"{self._shown_name} is suspended, by a queue or by hand: {reason}")
            if patience.clock() - looked >= patience.look_seconds:
                looked = patience.clock()
                for text in waiting_for(self.cluster, self.spec, self.name):
                    self._note(text)
            patience.sleep(patience.poll_seconds)
            job = self._read_again()

    def _read_again(self) -> Json:
        job = self.cluster.read_job(self.spec.namespace, self.name)
        if job is None or job["metadata"].get("deletionTimestamp"):
            self.uid = ""
            raise Transient(
                f"{self.spec.task}: {self._shown_name} vanished: somebody deleted it; the same call creates it anew "
                "and goes on from the last checkpoint"
            )
        if job["metadata"]["uid"] != self.uid:
            self._check_owner(job)
            return self._adopt(
                job, "was deleted and created anew by another launcher, and is attached to"
            )
        return job

    def _release(self) -> None:
        """Delete the job if this process created it or attached to it. A failure to do so is said,
        not raised."""
        try:
            if not self.uid and self.asked:
                left = self.cluster.read_job(self.spec.namespace, self.name)
                ours = (
                    left
                    and (left["metadata"].get("annotations") or {}).get(STEP_KEY)
                    == self.spec.step_key
                )
                self.uid = left["metadata"]["uid"] if left and ours else ""
            if not self.uid:
                return
            self.cluster.delete_job(self.spec.namespace, self.name, self.uid, "Background")
            self._note(f"cancelled: {self._shown_name} is deleted, its nodes are free again")
        except RatchetError as error:
            self._note(
                f"cancelled, but {self._shown_name} could not be deleted and goes on: {error}"
            )

    @property
    def _shown_name(self) -> str:
        return f"TrainJob {self.spec.namespace}/{self.name}"

    def _note(self, text: str) -> None:
        """Say something once."""
        if text not in self.said:
            self.said.add(text)
            self.progress.note(one_line(text))


def _state(job: Json) -> tuple[str, str]:
    """The first of Complete, Failed, Suspended that is true of a job, with its reason; empty while
    it goes on."""
    conditions: list[Mapping[str, Any]] = (job.get("status") or {}).get("conditions") or []
    true = {str(one.get("type")): one for one in conditions if one.get("status") == "True"}
    for state in ("Complete", "Failed", "Suspended"):
        if state in true:
            return state, f"{true[state].get('reason', '')}: {true[state].get('message', '')}"
    return "", ""


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Have SIGTERM raise _Terminated, once, and put the previous handler back. Only the main thread
    may do this; in another one signals stay as they are, and SIGTERM leaves the job for the next
    try to attach to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the release short
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous if previous is not None else signal.SIG_DFL)
