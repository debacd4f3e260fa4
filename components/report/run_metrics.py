"""Figures of a run for Prometheus: how it stands, and what its steps have cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from components.prometheus import Gauge, Sample
from components.report.views import RunView
from components.runtime.attempts import Attempt


def run_gauges(view: RunView) -> list[Gauge]:
    """Return the figures of a run."""
    attempts = [attempt for task in view.tasks for attempt in task.attempts]
    steps = sorted({attempt.step for attempt in attempts})
    return [
        Gauge(
            "ratchet_run_status",
            "1 with the status of the run as its label.",
            (Sample(1.0, {"status": view.status}),),
        ),
        Gauge(
            "ratchet_run_failed_tasks",
            "Tasks of the run whose last attempt failed.",
            (Sample(float(len(view.failed))),),
        ),
        Gauge(
            "ratchet_run_attempts",
            "Attempts at tasks of a step, failed and repeated ones too.",
            tuple(
                Sample(_of(step, attempts, lambda _: 1.0), {"step": step})
                for step in steps
            ),
        ),
        Gauge(
            "ratchet_run_step_seconds",
            "Seconds of all attempts at tasks of a step.",
            tuple(
                Sample(
                    _of(step, attempts, lambda attempt: attempt.seconds), {"step": step}
                )
                for step in steps
            ),
        ),
        Gauge(
            "ratchet_run_compute_seconds",
            "Seconds of sampling, training and measuring.",
            (Sample(view.totals.compute_seconds),),
        ),
        Gauge(
            "ratchet_run_tokens",
            "Tokens that were generated and trained on.",
            (Sample(view.totals.tokens),),
        ),
        Gauge(
            "ratchet_run_peak_memory_bytes",
            "Memory of the largest task at its peak.",
            (Sample(float(view.totals.peak_memory_bytes)),),
        ),
    ]


def _of(
    step: str, attempts: Iterable[Attempt], amount: Callable[[Attempt], float]
) -> float:
    """Return the sum of an amount over the attempts at tasks of a step."""
    return sum(amount(attempt) for attempt in attempts if attempt.step == step)
