"""A run as a person looks at it: its tasks, rounds and receipts, as far as they could be read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from components.contracts.recipe import Recipe
from components.contracts.releases import Line
from components.contracts.rows import Dropped, TrainingRow
from components.contracts.run_verdict import RunStatus
from components.contracts.state import ModelRecord, RoundRecord, State
from components.contracts.summaries import (
    EvaluateSummary,
    GenerateSummary,
    LogEntry,
    PublishSummary,
    SelectSummary,
    TrainSummary,
)
from components.measures import measure_of
from components.report.answers import ComparedAnswers
from components.report.costs import Totals
from components.runtime.attempts import Attempt
from components.runtime.receipts import Receipt


@dataclass(frozen=True)
class TaskView:
    """One task of the graph with all its attempts, oldest first."""

    name: str
    attempts: tuple[Attempt, ...]

    @property
    def last(self) -> Attempt:
        """The newest attempt."""
        return self.attempts[-1]

    @property
    def worked(self) -> Attempt:
        """The attempt that did the work of the newest one: its times are the real ones."""
        # An attempt that finds its work done takes a second, whatever the work took.
        working_attempts = [
            attempt
            for attempt in self.attempts
            if attempt.receipt
            and attempt.receipt == self.last.receipt
            and not attempt.reused
        ]
        return working_attempts[-1] if working_attempts else self.last

    @property
    def num_deaths(self) -> int:
        """Attempts since the last one that left a result or an error. Each was killed; the newest
        may be under way."""
        silent = itertools.takewhile(
            lambda attempt: not attempt.error and not attempt.receipt,
            reversed(self.attempts),
        )
        return sum(1 for _ in silent)

    @property
    def status(self) -> str:
        """`done`, `reused`, `failed` or `unfinished` (running, or stopped without a word)."""
        if self.last.error:
            return "failed"
        if not self.last.receipt:
            return "unfinished"
        return "reused" if self.last.reused else "done"


@dataclass(frozen=True)
class RoundView:
    """One finished round: its record and, as far as they could be read, parts of its receipts."""

    record: RoundRecord
    train: TrainSummary | None = None
    """None if the receipt could not be read, like the next two."""
    select: SelectSummary | None = None
    evaluate: EvaluateSummary | None = None
    generate: GenerateSummary | None = None
    """Of the first shard; None also where the round had none."""
    curve: tuple[LogEntry, ...] = ()
    """The training's log; empty if it was not asked for, like the next two."""
    accepted: tuple[TrainingRow, ...] = ()
    """Examples of accepted samples."""
    dropped: tuple[Dropped, ...] = ()
    """Examples of dropped samples."""


Tasks = tuple[TaskView, ...]


def start_of_last(tasks: Tasks) -> tuple[int, float]:
    """Return the place in order (`Attempt.order`) of the last start of a run."""
    # Every start begins with prepare. What happened before it belongs to an earlier start, which
    # may have had other data: a run's name comes from its recipe alone.
    starts = [task.last.order for task in tasks if task.last.step == "prepare"]
    return max(starts, default=(0, 0.0))


def failed_since(tasks: Tasks, start: tuple[int, float]) -> Tasks:
    """Return the tasks whose last attempt failed, from a start on (`start_of_last`)."""
    return tuple(
        task for task in tasks if task.status == "failed" and task.last.order >= start
    )


def first_failed_round(tasks: Tasks) -> float:
    """Return the lowest round in which a task of the last start failed; infinity without any.

    It is -1 for prepare and for the base; publish and the report belong to no round.
    """
    rounds = [
        -1 if task.last.step == "prepare" else task.last.round
        for task in failed_since(tasks, start_of_last(tasks))
        if task.last.step != "publish"
    ]
    return min(rounds, default=math.inf)


Rounds = Sequence[RoundView]
"""Rounds, the newest last."""


@dataclass(frozen=True)
class RunView:
    """A run as far as it is known."""

    run_id: str
    store: str
    recipe: Recipe | None
    state: State | None
    state_ref: str
    """Ref of the receipt that holds the state; empty without one."""
    tasks: Tasks
    receipts: dict[str, Receipt]
    """`step/key` → receipt, of everything that the run names and that could be read."""
    base_evaluation: EvaluateSummary | None
    """Summary of the base model's evaluation; None if it could not be read."""
    rounds: tuple[RoundView, ...]
    publication: PublishSummary | None
    """Summary of the publish receipt of the last start, released or not; None without one."""
    totals: Totals
    problems: tuple[str, ...]
    """A line for everything that is missing or damaged."""
    release: Line | None = None
    """Line of the ledger by which a publication that needs approval was released; None without
    approval, or before it."""
    answers: ComparedAnswers | None = None
    """Base and champion on the test prompts; None if it was not asked for, or cannot be told."""

    @property
    def published(self) -> PublishSummary | None:
        """Summary of the model that was released; None if none was."""
        publication = self.publication
        if publication is None or not publication.released or self.waits_for_approval:
            return None
        return publication

    @property
    def waits_for_approval(self) -> bool:
        """True if the champion may be released, and a person has not approved it yet."""
        publication = self.publication
        return (
            publication is not None
            and publication.needs_approval
            and self.release is None
        )

    @property
    def failed(self) -> Tasks:
        """Tasks that failed since the run was last started."""
        return failed_since(self.tasks, start_of_last(self.tasks))

    @property
    def champion(self) -> ModelRecord | None:
        """The scores of the champion; None before the base is measured."""
        return None if self.state is None else self.state.champion_record

    @property
    def champion_evaluation(self) -> EvaluateSummary | None:
        """The champion's evaluation; None if it cannot be read."""
        if self.state is None or self.state.champion_round is None:
            return self.base_evaluation
        for round_view in self.rounds:
            if round_view.record.round == self.state.champion_round:
                return round_view.evaluate
        return None

    @property
    def target_met(self) -> bool:
        """True if the champion reached the goal, by the word of publish or decide, else by its
        score."""
        # A state that was read may be older than the model that was published.
        if self.publication is not None:
            return self.publication.target_met
        if self.state is not None and self.state.stop == "target":
            return True
        if self.champion is None or self.recipe is None:
            return False
        goal = self.recipe.decide.goal
        return measure_of(goal.metric).reaches(self.champion.score, goal.threshold)

    @property
    def status(self) -> RunStatus:
        """`published`, `waiting for approval`, `not released` (ended, and the model is not better
        than what there is), `failed`, `unfinished` (running or stopped), or `unknown` (no trace)."""
        if self.failed:
            return "failed"
        if self.published is not None:
            return "published"
        if self.waits_for_approval:
            return "waiting for approval"
        if self.publication is not None:
            return "not released"
        return "unfinished" if self.tasks else "unknown"
