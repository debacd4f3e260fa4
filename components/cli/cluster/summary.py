"""The verdict of a cluster's run as Markdown, for the page that a CI system shows of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.cli.cluster.submit import Started, Submission, failures
from components.errors import RatchetError
from components.report.runs import load_run, run_id_of_job
from components.report.views import RunView
from components.report.words import headline, percent
from components.runtime.context import make_context
from components.storage import keys


def summary_page(wanted: Submission, started: Started, environment: Mapping[str, str]) -> str:
    """What came out, round by round, from the store; where that cannot be read, what Kubeflow alone
    knows."""
    lines = [
        f"## {_plain(wanted.name)}",
        "",
        f"Kubeflow run [{started.run_id}]({started.url}): {started.state}",
    ]
    lines += [f"- {_plain(line)}" for line in failures(started.run)]
    store = str(wanted.parameters.get("store", ""))
    try:
        context = make_context(store, environment)
        context.store.size(keys.job_key(started.run_id))  # says why, if the store cannot be read
        run_id = run_id_of_job(context, started.run_id)
        lines += (
            _rounds(load_run(context, run_id))
            if run_id
            else ["", "No step left a record in the store."]
        )
    except RatchetError as error:
        lines += ["", f"The verdict could not be read from the store: {_plain(str(error))}"]
    return "\n".join([*lines, ""])


def _rounds(view: RunView) -> list[str]:
    lines = ["", f"**{_plain(headline(view))}**"]
    if view.state is not None and view.state.history:
        lines += ["", "| round | accuracy | verdict | why |", "|---|---|---|---|"]
        lines += [_row(one) for one in view.state.history]
    if view.published is not None:
        lines += ["", f"Published: `{view.store}/{_plain(view.published.prefix)}`"]
    return [*lines, "", f"Report: `{view.store}/runs/{view.run_id}/report.html`"]


def _row(record: Any) -> str:
    low, high = record.interval
    accuracy = f"{percent(record.accuracy)} ({percent(low)} to {percent(high)})"
    return f"| {record.round} | {accuracy} | {record.verdict} | {_plain(record.why)} |"


def _plain(text: str) -> str:
    """Words of a model or a server, unable to end a table or to begin Markdown of their own."""
    kept = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:300]
    return "".join(f"\\{letter}" if letter in "\\|`*_[]<>" else letter for letter in kept)
