"""Training on many nodes: create or find a TrainJob of Kubeflow Trainer v2, follow and release it.

The job's name is made from the step key and the store, so a retry or a second launcher of the same
work finds the same job and attaches to it. Its rank 0 commits the trained model to the store; only
the job's state is read from the job. Each node runs `torchrun`, which the Trainer's torch
policy configures by PET_* variables (PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK,
PET_MASTER_ADDR, PET_MASTER_PORT), none of which are set here.

The launcher's service account needs create, get, delete on trainjobs.trainer.kubeflow.org; list on
pods and events and get on pods/log only serve messages: without them training works and its notes
say what it may not see.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from components.errors import RatchetError, Transient, UserError, one_line
from components.runtime.progress import Progress
from components.train.launch.cluster_api import Cluster, Json, reason_and_message
from components.train.launch.pods import failure_of, last_line_of, waiting_for
from components.train.launch.trainjob import (
    STEP_KEY,
    TrainJobSpec,
    job_name,
    manifest,
    pod_selector,
)

CREATIONS = 10
"""Attempts to create a job that keeps appearing and vanishing, before the step is Transient."""


def follow_train_job(
    spec: TrainJobSpec,
    cluster: Cluster,
    progress: Progress,
    *,
    secrets: Sequence[str] = (),
    has_receipt: Callable[[], bool] = lambda: True,
) -> None:
    """Return when the TrainJob of this step is Complete, whoever created it; it is deleted then.

    A running job is attached to. A failed job, or one that is Complete though `has_receipt` says
    that the store lacks its result, is deleted and created anew. A job that is suspended, queued
    or unschedulable is waited for, with notes that say why. SIGTERM and KeyboardInterrupt delete it
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
    creation_pending: bool = False
    """A creation is on its way, whose answer may never arrive."""
    noted: set[str] = field(default_factory=set)

    def run(self) -> None:
        self.name = job_name(self.spec)
        # Two launchers of the same work, such as a retry beside a pod that is not dead, attach to
        # one job and get one receipt.
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
        """Create the job of this step, or attach to it; return it."""
        # A job may vanish between the refusal ("there is one of that name") and the look at it.
        for _ in range(CREATIONS):
            # Until the answer is there, SIGTERM must look for a job that may have been created.
            self.creation_pending = True
            created = self.cluster.create_job(self.spec.namespace, manifest(self.spec))
            self.creation_pending = False
            if created is not None:
                return self._adopt(created, "created")
            existing_job = self.cluster.read_job(self.spec.namespace, self.name)
            if existing_job is None:
                continue
            self._check_owner(existing_job)
            state, reason = _state(existing_job)
            if existing_job["metadata"].get("deletionTimestamp"):
                self._wait_until_gone(existing_job, "is being deleted")
            elif state == "Failed":
                self._remove(existing_job, f"had failed ({reason})")
            elif state == "Complete" and not self.has_receipt():
                self._remove(
                    existing_job, "is complete, but its receipt is not in the store"
                )
            else:
                return self._adopt(existing_job, "found and attached to")
        raise Transient(
            f"{self.spec.task}: {self._shown_name} vanished {CREATIONS} times as it was created; "
            "try again"
        )

    def _remove(self, job: Json, obstacle: str) -> None:
        """Delete a job that is in the way, and wait until it is gone."""
        # Foreground: the job goes after its pods, which would meet those of the new one.
        uid = job["metadata"]["uid"]
        self.cluster.delete_job(self.spec.namespace, self.name, uid, "Foreground")
        self._wait_until_gone(job, f"{obstacle}; it is deleted and created anew")

    def _adopt(self, job: Json, event: str) -> Json:
        self.uid = job["metadata"]["uid"]
        self._note(f"{self._shown_name} {event} ({self.spec.num_nodes} nodes)")
        return job

    def _check_owner(self, job: Json) -> None:
        owner_key = _step_key_of(job)
        if owner_key != self.spec.step_key:
            owner = f"step {owner_key}" if owner_key else "something else"
            raise UserError(
                f"{self._shown_name} belongs to {owner}, not to step {self.spec.step_key}; rename "
                "or delete it, or train in another namespace"
            )

    def _wait_until_gone(self, job: Json, reason: str) -> None:
        self._note(f"{self._shown_name} {reason}")
        patience = self.cluster.patience
        uid = job["metadata"]["uid"]
        deadline = patience.clock() + patience.removal_seconds
        while True:
            current_job = self.cluster.read_job(self.spec.namespace, self.name)
            # Another uid is a new job of the same name: the old one is gone.
            if not current_job or current_job["metadata"]["uid"] != uid:
                return
            if patience.clock() > deadline:
                raise Transient(
                    f"{self._shown_name} is not gone after {patience.removal_seconds:.0f} s; see "
                    f"what holds its pods (kubectl -n {self.spec.namespace} get pods -l "
                    f"{pod_selector(self.name)}) and try again"
                )
            patience.sleep(patience.poll_seconds)

    def _watch(self, job: Json) -> None:
        patience = self.cluster.patience
        looked_at = patience.clock()
        while True:
            state, reason = _state(job)
            # Nothing to release any more: SIGTERM from here on leaves the job as a record.
            if state in ("Complete", "Failed"):
                self.uid = ""
            if state == "Complete":
                self._note(f"{self._shown_name} is complete")
                self._clear_away(job)
                return
            if state == "Failed":
                raise failure_of(
                    self.cluster, self.spec, self.name, reason, self.secrets
                )
            # A job that waits in a queue may wait for long. Without one, nodes that started wait a day
            # for the others (the TrainingRuntime says so; torchrun's own patience is 15 minutes).
            if state == "Suspended":
                self._note(
                    f"{self._shown_name} is suspended, by a queue or by hand: {reason}"
                )
            if patience.clock() - looked_at >= patience.look_seconds:
                looked_at = patience.clock()
                for text in waiting_for(self.cluster, self.spec, self.name):
                    self._note(text)
                line = last_line_of(self.cluster, self.spec, self.name, self.secrets)
                if line:
                    self._note(f"node 0: {line}")
            patience.sleep(patience.poll_seconds)
            current_job = self._read_again()
            if current_job is None:
                return
            job = current_job

    def _clear_away(self, job: Json) -> None:
        """Delete a complete job, whose JobSet and pods would stay for ever.

        Only once its result is in the store: without it, the job is the one trace of what happened.
        """
        try:
            if self.has_receipt():
                uid = job["metadata"]["uid"]
                self.cluster.delete_job(
                    self.spec.namespace, self.name, uid, "Background"
                )
        except RatchetError as error:
            self._note(
                f"{self._shown_name} is complete and could not be deleted: {error}"
            )

    def _read_again(self) -> Json | None:
        """Return the job as it is now, or None if another launcher saw its end and deleted it."""
        job = self.cluster.read_job(self.spec.namespace, self.name)
        if job is None or job["metadata"].get("deletionTimestamp"):
            self.uid = ""
            if self.has_receipt():
                self._note(
                    f"{self._shown_name} is gone, and its result is in the store"
                )
                return None
            raise Transient(
                f"{self.spec.task}: {self._shown_name} vanished: somebody deleted it; the same "
                "call creates it anew and goes on from the last checkpoint"
            )
        if job["metadata"]["uid"] != self.uid:
            self._check_owner(job)
            return self._adopt(
                job,
                "was deleted and created anew by another launcher, and is attached to",
            )
        return job

    def _release(self) -> None:
        """Delete the job if this process created it or attached to it.

        A failure to do so is noted, not raised.
        """
        try:
            if not self.uid and self.creation_pending:
                job = self.cluster.read_job(self.spec.namespace, self.name)
                if job and _step_key_of(job) == self.spec.step_key:
                    self.uid = job["metadata"]["uid"]
            if not self.uid:
                return
            # Background: SIGTERM leaves little time, and the API server goes on by itself.
            self.cluster.delete_job(
                self.spec.namespace, self.name, self.uid, "Background"
            )
            self._note(
                f"cancelled: {self._shown_name} is deleted, its nodes are free again"
            )
        except RatchetError as error:
            self._note(
                f"cancelled, but {self._shown_name} could not be deleted and goes on: {error}"
            )

    @property
    def _shown_name(self) -> str:
        return f"TrainJob {self.spec.namespace}/{self.name}"

    def _note(self, text: str) -> None:
        """Note the text, the first time only."""
        if text not in self.noted:
            self.noted.add(text)
            self.progress.note(one_line(text, None))


def _step_key_of(job: Json) -> str | None:
    """Return the key of the step that a job belongs to, or None for a job of something else."""
    annotations: Mapping[str, str] = job["metadata"].get("annotations") or {}
    return annotations.get(STEP_KEY)


def _state(job: Json) -> tuple[str, str]:
    """Return (state, reason): the first of Complete, Failed, Suspended that is true of a job.

    Both are empty while it goes on.
    """
    # A new job has no status yet.
    status = job.get("status") or {}
    true_conditions = {}
    for condition in status.get("conditions") or []:
        if condition.get("status") == "True":
            true_conditions[condition.get("type")] = condition
    for state in ("Complete", "Failed", "Suspended"):
        if state in true_conditions:
            return state, reason_and_message(true_conditions[state])
    return "", ""


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Have SIGTERM raise _Terminated, once, and put the previous handler back.

    Only the main thread may do this. In another thread signals stay as they are, and SIGTERM leaves
    the job for the next try to attach to.
    """
    # Python lets only the main thread set a handler.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        # A second SIGTERM must not cut the release short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(
            signal.SIGTERM, previous if previous is not None else signal.SIG_DFL
        )
