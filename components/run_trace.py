"""The trace of a run for OpenTelemetry: the run, its rounds, and each attempt at a task of theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from components.contracts import artifacts
from components.contracts.state import State
from components.errors import Corrupt
from components.gauges import Gauge
from components.otlp import Attribute, Span
from components.runtime.attempts import Attempt
from components.runtime.context import Context
from components.runtime.receipts import fetch, read_receipt
from components.storage import keys

RUN_KEY = "run"
_OF_THE_RUN = ("prepare", "publish")
"""Steps that belong to no round."""
_STATUS = "ratchet_run_status"


def run_spans(context: Context, run_id: str, gauges: Iterable[Gauge]) -> list[Span]:
    """Return the spans of a run as the store knows it, the root first; none before a task has begun.

    Args:
        context: Has the store.
        run_id: The run.
        gauges: Its figures, which the root gets.
    """
    attempts = []
    for key in context.store.list(keys.attempts_prefix(run_id)):
        try:
            attempts.append(Attempt.from_bytes(context.store.get_bytes(key)))
        except (ValidationError, Corrupt):
            continue  # The report, which reads the same records, tells of it.
    attempts.sort(key=lambda attempt: attempt.order)
    return spans_of(run_id, attempts, _newest_state(context, attempts), gauges)


def spans_of(
    run_id: str,
    attempts: Sequence[Attempt],
    state: State | None,
    gauges: Iterable[Gauge],
) -> list[Span]:
    """Return the spans of a run.

    Args:
        run_id: The run.
        attempts: All attempts at its tasks, in order.
        state: Its standing after the last decided round; None before one is.
        gauges: Its figures.
    """
    if not attempts:
        return []
    spans = [_run_span(run_id, attempts, gauges)]
    numbers = sorted({attempt.round for attempt in attempts if _is_of_round(attempt)})
    for number in numbers:
        own = [
            attempt
            for attempt in attempts
            if _is_of_round(attempt) and attempt.round == number
        ]
        spans.append(_round_span(number, own, state))
    return [*spans, *map(_attempt_span, attempts)]


def _newest_state(context: Context, attempts: Iterable[Attempt]) -> State | None:
    refs = [
        attempt.receipt
        for attempt in attempts
        if attempt.step == "decide" and attempt.receipt
    ]
    if not refs:
        return None
    receipt = read_receipt(context, refs[-1])
    state_file = fetch(context, receipt, artifacts.STATE)
    return State.model_validate_json(state_file.read_bytes())


def _is_of_round(attempt: Attempt) -> bool:
    # The base is measured before there are rounds.
    return attempt.round >= 0 and attempt.step not in _OF_THE_RUN


def _round_key(number: int) -> str:
    return f"round-{number}"


def _run_span(
    run_id: str, attempts: Sequence[Attempt], gauges: Iterable[Gauge]
) -> Span:
    begin, end = _stretch(attempts)
    campaign, _, _ = run_id.rpartition("-")
    attributes: dict[str, Attribute] = {
        "ratchet.campaign": campaign,
        "ratchet.run": run_id,
    }
    status = ""
    for gauge in gauges:
        for sample in gauge.samples:
            if gauge.name == _STATUS:
                status = sample.labels["status"]
                attributes["ratchet.status"] = status
            elif not sample.labels:
                attributes[gauge.name.replace("_", ".", 1)] = sample.value
    error = _error_of(attempts) if status == "failed" else ""
    return Span(
        RUN_KEY,
        f"run {campaign}",
        "",
        begin,
        end,
        attributes,
        error,
        status != "unfinished",
    )


def _round_span(number: int, attempts: Sequence[Attempt], state: State | None) -> Span:
    begin, end = _stretch(attempts)
    attributes: dict[str, Attribute] = {"ratchet.round": number}
    history = () if state is None else state.history
    records = [record for record in history if record.round == number]
    for record in records:
        attributes |= {
            "ratchet.verdict": record.verdict,
            "ratchet.generated": record.generated,
            "ratchet.accepted": record.accepted,
            "ratchet.metric": record.metric,
            "ratchet.validation_score": record.overall,
            "ratchet.test_score": record.test_score,
            "ratchet.cost.tokens": record.tokens_generated + record.tokens_trained,
        }
    error = "" if records else _error_of(attempts)
    key = _round_key(number)
    return Span(
        key, f"round {number}", RUN_KEY, begin, end, attributes, error, bool(records)
    )


def _error_of(attempts: Iterable[Attempt]) -> str:
    """Return the error of the last attempt that failed at a task that nobody tried again."""
    last_by_task = {attempt.task: attempt for attempt in attempts}
    errors = [attempt.error for attempt in last_by_task.values() if attempt.error]
    return errors[-1] if errors else ""


def _attempt_span(attempt: Attempt) -> Span:
    attributes: dict[str, Attribute] = {
        "ratchet.step": attempt.step,
        "ratchet.round": attempt.round,
        "ratchet.reused": attempt.reused,
        "ratchet.peak_memory_bytes": attempt.peak_memory_bytes,
        **{f"ratchet.cost.{name}": amount for name, amount in attempt.costs.items()},
    }
    if attempt.receipt:
        attributes["ratchet.receipt"] = attempt.receipt
    if attempt.error_kind:
        attributes["error.type"] = attempt.error_kind
    begin, end = _stretch([attempt])
    return Span(
        # Two tries of one task may begin side by side: the time tells them apart.
        key=f"{attempt.task}/{attempt.sequence}/{attempt.started!r}",
        name=attempt.task,
        parent=_round_key(attempt.round) if _is_of_round(attempt) else RUN_KEY,
        begin=begin,
        end=end,
        attributes=attributes,
        error=attempt.error,
        is_done=bool(attempt.receipt),
    )


def _stretch(attempts: Iterable[Attempt]) -> tuple[float, float]:
    """Return begin of the first and end of the last attempt, in seconds since the epoch."""
    times = [
        (attempt.started, attempt.started + attempt.seconds) for attempt in attempts
    ]
    return min(begin for begin, _ in times), max(end for _, end in times)
