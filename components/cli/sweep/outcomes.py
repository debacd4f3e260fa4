"""The outcomes of a sweep: measures of each campaign, and which of them no other is better than."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, JsonValue

from components.cli.sweep.choices import DiversityName, Quality
from components.cli.sweep.grid import Combination
from components.contracts.recipe import Metric
from components.contracts.summaries import SelectSummary
from components.measures import measure_of
from components.report.views import RunView


class SweptRun(BaseModel):
    """Outcome of one campaign of a sweep. Scores are on validation, which the gate sees too."""

    model_config = ConfigDict(frozen=True)
    settings: dict[str, JsonValue]
    """Key → value."""
    run_id: str
    exit_code: int
    """That of `run`; 1 also where the goal was met, since a sweep releases nothing."""
    error: str
    """One line about the task that failed; empty if none did."""
    rounds: int
    promoted: int
    """Rounds whose candidate was promoted."""
    target_met: bool
    metric: Metric | None = None
    """Measure of the score; None before the base is measured."""
    score: float | None = None
    """Of the champion; None for what was not measured, here and below."""
    consistency: float | None = None
    """Mean share of a prompt's samples that give its most frequent answer, in the last round that
    has samples, 0 to 1 (2210.11610)."""
    vendi: float | None = None
    """Effective number of different answers of the champion (2210.02410)."""
    distinct_2: float | None = None
    """Share of different word pairs in them (1510.03055)."""
    distinct_samples: float | None = None
    """Share of the samples of the same round that differ from the prompt's earlier ones."""
    on_front: bool = False
    """No other campaign is as good in both measures and better in one."""


def swept_run(
    combination: Combination, view: RunView, exit_code: int, error: str
) -> SweptRun:
    """Return the measures of a campaign that has ended."""
    champion = view.champion
    evaluation = view.champion_evaluation
    diversity = None if evaluation is None else evaluation.diversity
    samples = _last_samples(view)
    votes = None if samples is None else samples.votes
    records = [round_view.record for round_view in view.rounds]
    return SweptRun(
        settings=combination.settings,
        run_id=view.run_id,
        exit_code=exit_code,
        error=error,
        rounds=len(records),
        promoted=sum(record.verdict == "promoted" for record in records),
        target_met=view.target_met,
        metric=None if champion is None else champion.metric,
        score=None if champion is None else champion.score,
        consistency=None if votes is None else votes.agreement,
        vendi=None if diversity is None else diversity.vendi,
        distinct_2=None if diversity is None else diversity.distinct_2,
        distinct_samples=None if samples is None else samples.distinct_share,
    )


def _last_samples(view: RunView) -> SelectSummary | None:
    """Return the selection of the last round that drew samples; None without any."""
    for round_view in reversed(view.rounds):
        if round_view.select is not None and round_view.select.generated:
            return round_view.select
    return None


def with_front(
    runs: Sequence[SweptRun], quality: Quality, diversity: DiversityName
) -> list[SweptRun]:
    """Return the runs, those on the Pareto front marked.

    Args:
        runs: All campaigns of the sweep; those without both measures are not on the front.
        quality: The one measure.
        diversity: The other; more is better.
    """
    points = [_point(run, quality, diversity) for run in runs]
    known = [point for point in points if point is not None]
    marked = []
    for run, point in zip(runs, points, strict=True):
        on_front = point is not None and not any(
            _dominates(other, point) for other in known
        )
        marked.append(run.model_copy(update={"on_front": on_front}))
    return marked


def _point(
    run: SweptRun, quality: Quality, diversity: DiversityName
) -> tuple[float, float] | None:
    """Return (quality, diversity) of a campaign, more being better; None if one is not known."""
    measured = run.score if quality == "score" else run.consistency
    variety: float | None = getattr(run, diversity)
    # A campaign that failed may have a champion, of fewer rounds than the others.
    if measured is None or variety is None or run.error:
        return None
    if quality == "score" and run.metric is not None:
        measured = measured if measure_of(run.metric).higher_is_better else -measured
    return measured, variety


def _dominates(point: tuple[float, float], other: tuple[float, float]) -> bool:
    """Return True if a point is nowhere worse than another one, and better somewhere."""
    return point != other and all(
        mine >= theirs for mine, theirs in zip(point, other, strict=True)
    )


def exit_code_of_all(runs: Sequence[SweptRun]) -> int:
    """Return the first failure's exit status; else 0 if a champion met the goal, and 1 if none."""
    for failure in _failures(runs):
        return failure
    return 0 if any(run.target_met for run in runs) else 1


def _failures(runs: Sequence[SweptRun]) -> Iterator[int]:
    """Yield the exit status of every campaign that failed."""
    for run in runs:
        if run.error:
            yield run.exit_code
