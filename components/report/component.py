"""KFP shell of the exit handler: the report, whatever happened."""

from kfp import dsl
from kfp.dsl import HTML, Metrics, Output, PipelineTaskFinalStatus


@dsl.component(base_image="ratchet/cpu:dev", install_kfp_package=False)
def report(
    store: str,
    job_id: str,
    page: Output[HTML],
    scores: Output[Metrics],
    status: PipelineTaskFinalStatus,
):
    """Write the report and the summary of the run."""
    from pathlib import Path

    from components.report.step import ReportInputs, run
    from components.runtime.entrypoints import step_context

    with step_context(store) as context:
        html, summary = run(ReportInputs(job_id=job_id, status=status.state), context)
    Path(page.path).write_text(html, encoding="utf-8")
    Path(scores.path).write_text("{}", encoding="utf-8")
    scores.metadata.update(
        {
            name: value
            for name, value in summary.items()
            if isinstance(value, int | float | str)
        }
    )
