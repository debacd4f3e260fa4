"""Write the report of a run into its store, whatever happened to the run. Prints the page's URI."""

import argparse

from components.report.step import ReportInputs, run
from components.runtime.entrypoints import step_context
from components.storage import keys


def main() -> None:
    """Run the step from a container, a job or a laptop."""
    options = argparse.ArgumentParser(
        prog="python -m components.report", description=__doc__, allow_abbrev=False
    )
    options.add_argument(
        "--store",
        required=True,
        metavar="URI",
        help="file:///folder or s3://bucket/prefix",
    )
    options.add_argument(
        "--run-id",
        required=True,
        help="the run; `python pipeline.py status` names the latest",
    )
    arguments = options.parse_args()
    with step_context(arguments.store) as context:
        run(ReportInputs(job_id="", run_id=arguments.run_id), context)
        print(f"{context.store.root}/{keys.run_key(arguments.run_id, 'report.html')}")


if __name__ == "__main__":
    main()
