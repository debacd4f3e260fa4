"""The verdict of a run from its records: what the log line of `report` and `submit` say."""

from __future__ import annotations

import json
import math
import sys

from components.contracts.run_verdict import (
    MAX_ROUNDS,
    MAX_SENTENCE,
    MAX_URI,
    MAX_WORDS,
    RoundLine,
    RunVerdict,
    ScoreLine,
    verdict_line,
)
from components.contracts.state import ModelRecord, RoundRecord
from components.errors import one_line
from components.report.views import RunView
from components.report.words import headline
from components.runtime.context import Context
from components.runtime.log_lines import json_line


def verdict_of_run(view: RunView, job_id: str) -> RunVerdict:
    """Return the verdict of a run that Kubeflow knows by this id."""
    state = view.state
    history = () if state is None else state.history[-MAX_ROUNDS:]
    base = None if state is None else state.base
    published = view.published
    publication = view.publication
    return RunVerdict(
        job_id=one_line(job_id, MAX_WORDS),
        run_id=one_line(view.run_id, MAX_WORDS),
        status=view.status,
        verdict=one_line(headline(view), MAX_SENTENCE),
        promoted=published is not None,
        model=_model_uri(view),
        reason=one_line(publication.why, MAX_WORDS) if publication is not None else "",
        target_met=view.target_met,
        metric=base.metric if base is not None else None,
        base=_score(base) if base is not None else None,
        champion_round=state.champion_round if state is not None else None,
        rounds=tuple(_round(record) for record in history),
        rounds_left_out=0 if state is None else len(state.history) - len(history),
        store=one_line(view.store, MAX_URI),
    )


def _model_uri(view: RunView) -> str:
    if view.published is None:
        return ""
    return one_line(f"{view.store}/{view.published.prefix}", MAX_URI)


def _round(record: RoundRecord) -> RoundLine:
    score = ScoreLine(score=None, low=None, high=None)
    # A round without a candidate repeats the champion's scores.
    if not record.weak:
        score = _score(record)
    return RoundLine(
        **score.model_dump(),
        round=record.round,
        verdict=record.verdict,
        reason=one_line(record.why, MAX_WORDS),
    )


def _score(record: ModelRecord) -> ScoreLine:
    low, high = record.interval
    return ScoreLine(score=_finite(record.score), low=_finite(low), high=_finite(high))


def _finite(number: float) -> float | None:
    # JSON has no word for the others.
    return number if math.isfinite(number) else None


def say_verdict(verdict: RunVerdict, context: Context) -> None:
    """Write the line of a verdict to the step's log, in its format.

    In JSON the message is the sentence, and the field `log` holds the line.
    """
    progress = context.progress
    line = verdict_line(verdict)
    if progress.log_format == "json":
        words = json_line(verdict.verdict, "INFO", progress.subject, context.clock())
        # Of an archived line that is a JSON object the API of Kubeflow Pipelines (2.17,
        # apiserver/archive/log.go) returns the field of this name alone.
        line = json.dumps({**json.loads(words), "log": line}, ensure_ascii=False)
    print(line, file=sys.stderr, flush=True)
