"""The verdict of a run in one line of a log, for those who see the run and not its store.

`report` ends with it, whatever happened to the run. Kubeflow Pipelines hands a pod's log to whoever
may see the run, also where the store has no way in from outside or its keys stay in the cluster.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.contracts.recipe import Metric
from components.contracts.state import Verdict

LINE_BEGIN = "ratchet-verdict "
"""What the line begins with; the document follows."""
MAX_LINE_BYTES = 8000
"""Runtimes of containers cut lines at 16 KiB, and within a line of JSON its quotes are escaped."""
MAX_WORDS = 300
MAX_SENTENCE = 1000
MAX_URI = 1200
"""Lengths in characters: a key of S3 has at most 1,024 bytes."""
MAX_ROUNDS = 1000
RunStatus = Literal[
    "published",
    "waiting for approval",
    "not released",
    "failed",
    "unfinished",
    "unknown",
]
"""As `RunView.status` has them."""

Words = Annotated[str, Field(max_length=MAX_WORDS)]
Uri = Annotated[str, Field(max_length=MAX_URI)]


class Lenient(BaseModel):
    """Base: immutable; fields that a newer version added are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class ScoreLine(Lenient):
    """A model's score on validation, by the run's metric."""

    score: float | None
    """None where there was no candidate, or the score is no finite number; so the next two."""
    low: float | None
    """Ends of the 95 % interval."""
    high: float | None


class RoundLine(ScoreLine):
    """The verdict of one round."""

    round: int
    verdict: Verdict
    reason: Words


class RunVerdict(Lenient):
    """The outcome of a run."""

    version: Literal[1] = 1
    """Of this form; one that a reader does not know is no verdict to it."""
    job_id: Words
    """Kubeflow's id of the run: a line of another run is no verdict of this one."""
    run_id: Words
    """Ratchet's; `unknown` where no step left a record."""
    status: RunStatus
    verdict: Annotated[str, Field(max_length=MAX_SENTENCE)]
    """The outcome in a few sentences."""
    promoted: bool
    """The run released a model."""
    model: Uri
    """URI of the released model; empty without one."""
    reason: Words
    """Reason for or against the release; empty before it was decided."""
    target_met: bool
    metric: Metric | None
    """Measure of all scores; None before the base is measured."""
    base: ScoreLine | None
    champion_round: int | None
    """None: the base is the champion, or there is none."""
    rounds: Annotated[tuple[RoundLine, ...], Field(max_length=MAX_ROUNDS)] = ()
    """Oldest first."""
    rounds_left_out: int = 0
    """Oldest rounds that had no room in the line."""
    store: Uri

    @property
    def report(self) -> str:
        """URI of the report."""
        return f"{self.store}/runs/{self.run_id}/report.html"


def verdict_line(verdict: RunVerdict) -> str:
    """Return the line; the oldest rounds are left out where it would be too long."""
    while True:
        line = LINE_BEGIN + verdict.model_dump_json()
        if len(line.encode()) <= MAX_LINE_BYTES or not verdict.rounds:
            return line
        fewer_rounds = {
            "rounds": verdict.rounds[1:],
            "rounds_left_out": verdict.rounds_left_out + 1,
        }
        verdict = verdict.model_copy(update=fewer_rounds)


def verdict_in(line: str, job_id: str) -> RunVerdict | None:
    """Return the verdict that a line of a log holds; None if it holds none of this run.

    Args:
        line: By whomever: it may be cut, or of another program or version.
        job_id: Kubeflow's id of the run.
    """
    if not line.startswith(LINE_BEGIN) or len(line.encode()) > MAX_LINE_BYTES:
        return None
    try:
        verdict = RunVerdict.model_validate_json(line.removeprefix(LINE_BEGIN))
    except ValidationError:
        return None
    return verdict if verdict.job_id == job_id else None
