"""Write the report and the summary of a run, whatever happened to it: the work of the exit
handler."""

from __future__ import annotations

from dataclasses import dataclass

from components.canonical import canonical_json
from components.prometheus import export_metrics
from components.report.page import EXAMPLES_PER_ROUND, build_page
from components.report.run_metrics import run_gauges
from components.report.runs import load_run, run_id_of_job
from components.report.summary import RunSummary, summary_of
from components.report.verdict import say_verdict, verdict_of_run
from components.report.views import RunView
from components.report.words import cut
from components.runtime.context import Context
from components.runtime.webhook import notify
from components.storage import keys


@dataclass(frozen=True)
class ReportInputs:
    """The run to report on: its id, or the pipeline job that carried it out."""

    job_id: str
    run_id: str = ""
    status: str = ""
    """The end of the pipeline, in Kubeflow's words: SUCCEEDED, FAILED, CANCELLED."""


def run(inputs: ReportInputs, context: Context) -> tuple[str, RunSummary]:
    """Write `runs/<run_id>/report.html` and `summary.json` and return both.

    If the job did not get far enough to name its run, the page says what is known and nothing is
    stored. The log of a job's report ends with its verdict (`RunVerdict`).

    Raises:
        UserError: The store cannot be used.
        Transient: The store cannot be reached for now.
    """
    note = ""
    if inputs.status:
        note = f"The pipeline job {inputs.job_id} ended as {inputs.status.lower()}."
    run_id = inputs.run_id or run_id_of_job(context, inputs.job_id)
    if run_id is None:
        # Without a run there is no key to store a report under.
        view = load_run(context, "unknown")
        note += (
            " It did not get far enough to say which run it carries out; "
            "the log of prepare says why."
        )
        _say_verdict(view, inputs, context)
        return build_page(view, note.strip()), summary_of(view)
    view = load_run(context, run_id, examples=EXAMPLES_PER_ROUND)
    if not view.tasks:
        note += (
            " No task got far enough to leave a record; the log of prepare says why."
        )
    # Only the exit handler of a run tells of its failure: a report is written anew at will.
    if inputs.job_id and (view.failed or inputs.status == "FAILED"):
        notify(context, view.recipe, "failure", _failure(view))
    # The next start of the run writes both again: they are views, and nothing rests on them.
    html = build_page(view, note.strip())
    summary = summary_of(view)
    context.store.put_bytes(keys.run_key(run_id, "report.html"), html.encode())
    context.store.put_bytes(
        keys.run_key(run_id, "summary.json"), canonical_json(summary)
    )
    campaign, _, _ = run_id.rpartition("-")
    export_metrics(context, campaign, run_id, "report", lambda: run_gauges(view))
    _say_verdict(view, inputs, context)
    return html, summary


def _say_verdict(view: RunView, inputs: ReportInputs, context: Context) -> None:
    """Write the verdict to the log, where `submit` reads it without the store."""
    # A report by hand belongs to no job whose log anybody reads.
    if inputs.job_id:
        say_verdict(verdict_of_run(view, inputs.job_id), context)


def _failure(view: RunView) -> str:
    """Return which task failed, and why, in a sentence."""
    page = f"{view.store}/{keys.run_key(view.run_id, 'report.html')}"
    if not view.failed:
        return f"{view.run_id} failed; no task could say why. Report: {page}"
    last = view.failed[-1]
    return f"{view.run_id} failed in {last.name}: {cut(last.last.error, 600)} Report: {page}"
