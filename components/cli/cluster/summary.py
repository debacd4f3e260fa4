"""The verdict of a cluster's run as Markdown, for the page that a CI system shows of a job."""

from __future__ import annotations

import re
from collections.abc import Mapping

from components.cli.cluster.submit import Started, Submission, failure_lines
from components.contracts.state import ModelRecord, RoundRecord
from components.errors import RatchetError, one_line
from components.measures import measure_of
from components.report.runs import load_run, run_id_of_job
from components.report.views import RunView
from components.report.words import headline
from components.runtime.context import make_context
from components.storage import keys

_MAX_CHARACTERS = 300
_MARKDOWN = re.compile(r"[\\|`*_\[\]<>]")


def summary_page(
    submission: Submission, started: Started, environment: Mapping[str, str]
) -> str:
    """Return a page with the run's state, failures and, from the store, its rounds.

    Where the store cannot be read, the page says so and has what Kubeflow knows.
    """
    lines = [
        f"## {_escape(submission.name)}",
        "",
        f"Kubeflow run [{started.run_id}]({started.url}): {started.state}",
    ]
    lines += [f"- {_escape(line)}" for line in failure_lines(started)]
    store = str(submission.parameters.get("store", ""))
    try:
        lines += _verdict(store, started.run_id, environment)
    except RatchetError as error:
        lines += [
            "",
            f"The verdict could not be read from the store: {_escape(str(error))}",
        ]
    return "\n".join([*lines, ""])


def outputs(
    submission: Submission, started: Started, environment: Mapping[str, str]
) -> str:
    """Return lines `name=value` for the jobs after this one, as GitHub and GitLab read them.

    `promoted` is true if the run released a model, `model` is its URI, and `verdict` a sentence.
    Where the store cannot be read, `promoted` is empty.
    """
    values = {"run": started.run_id, **verdict_of(submission, started, environment)}
    lines = [
        f"{name}={one_line(value, _MAX_CHARACTERS)}" for name, value in values.items()
    ]
    return "\n".join([*lines, ""])


def verdict_of(
    submission: Submission, started: Started, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return `promoted` (true, false, or empty if it is not known), `model` and `verdict`."""
    store = str(submission.parameters.get("store", ""))
    try:
        view = _view(store, started.run_id, environment)
    except RatchetError as error:
        return _unknown(f"could not be read from the store: {error}")
    if view is None:
        return _unknown(started.state)
    published = view.published
    return {
        "promoted": str(published is not None).lower(),
        "model": f"{view.store}/{published.prefix}" if published is not None else "",
        "verdict": headline(view),
    }


def _unknown(verdict: str) -> dict[str, str]:
    return {"promoted": "", "model": "", "verdict": verdict}


def _verdict(store: str, job_id: str, environment: Mapping[str, str]) -> list[str]:
    view = _view(store, job_id, environment)
    return (
        ["", "No step left a record in the store."] if view is None else _rounds(view)
    )


def _view(store: str, job_id: str, environment: Mapping[str, str]) -> RunView | None:
    """Return what the store has of a job's run; None if no step has left a record."""
    context = make_context(store, environment)
    # Look-ups below take an unreadable store for an empty one; this request raises the reason.
    context.store.size(keys.job_key(job_id))
    run_id = run_id_of_job(context, job_id)
    return None if run_id is None else load_run(context, run_id)


def _rounds(view: RunView) -> list[str]:
    lines = ["", f"**{_escape(headline(view))}**"]
    # There is no state before `prepare` has ended, and no history before the first `decide`.
    if view.state is not None and view.state.history:
        metric = view.state.history[0].metric
        lines += ["", f"| round | {metric} | verdict | why |", "|---|---|---|---|"]
        if view.state.base is not None:
            lines.append(f"| base | {_score(view.state.base)} | first champion | |")
        lines += [_row(record) for record in view.state.history]
    if view.published is not None:
        prefix = _escape(view.published.prefix)
        lines += ["", f"Published: `{view.store}/{prefix}`"]
    if view.waits_for_approval:
        command = f"approve {view.run_id} --store {view.store}"
        lines += ["", f"Waiting for approval: `{command}` releases it."]
    return [*lines, "", f"Report: `{view.store}/runs/{view.run_id}/report.html`"]


def _row(record: RoundRecord) -> str:
    cells = [
        str(record.round),
        "no candidate" if record.weak else _score(record),
        record.verdict,
        _escape(record.why),
    ]
    return f"| {' | '.join(cells)} |"


def _score(record: ModelRecord) -> str:
    measure = measure_of(record.metric)
    low, high = (measure.text(bound) for bound in record.interval)
    return f"{measure.text(record.score)} ({low} to {high})"


def _escape(text: str) -> str:
    """Return a text by others that cannot end a table or begin Markdown of its own."""
    line = one_line(text, _MAX_CHARACTERS)
    return _MARKDOWN.sub(r"\\\g<0>", line)
