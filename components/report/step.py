"""The exit handler's work: the report and the summary of a run, whatever happened to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.canonical import canonical_json
from components.report.page import EXAMPLES_PER_ROUND, build_page
from components.report.runs import load_run, run_id_of_job, summary_of
from components.runtime.context import Context
from components.storage import keys


@dataclass(frozen=True)
class ReportInputs:
    """Which run to report on: by its id, or by the pipeline job that carried it out."""

    job_id: str
    run_id: str = ""
    status: str = ""
    """How the pipeline ended, in Kubeflow's words: SUCCEEDED, FAILED, CANCELLED."""


def run(inputs: ReportInputs, context: Context) -> tuple[str, dict[str, Any]]:
    """Write `runs/<run_id>/report.html` and `summary.json` and return both.

    Where the job did not get far enough to name its run, the page says what is known and nothing is
    stored. Raises UserError or Transient only if the store itself cannot be used.
    """
    run_id = inputs.run_id or run_id_of_job(context, inputs.job_id)
    ended = (
        f"The pipeline job {inputs.job_id} ended as {inputs.status.lower()}."
        if inputs.status
        else ""
    )
    if run_id is None:
        view = load_run(context, "unknown")
        note = f"{ended} It did not get far enough to say which run it carries out; the log of prepare says why."
        return build_page(view, note.strip()), summary_of(view)
    view = load_run(context, run_id, examples=EXAMPLES_PER_ROUND)
    note = (
        ended
        if view.tasks
        else f"{ended} No task got far enough to leave a record; the log of prepare says why."
    )
    html, summary = build_page(view, note.strip()), summary_of(view)
    context.store.put_bytes(keys.run_key(run_id, "report.html"), html.encode())
    context.store.put_bytes(keys.run_key(run_id, "summary.json"), canonical_json(summary))
    return html, summary
