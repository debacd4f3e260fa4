"""Resolve a recipe and make base checkpoint, data splits and the first state.

Prints `supervised=false` without round 0.
"""

from pathlib import Path

from components.contracts.recipe_file import load_recipe
from components.prepare.step import PrepareInputs, is_supervised, run
from components.runtime.entrypoints import carry_out, parser


def main() -> None:
    """Run the step from a container, a job or a laptop."""
    options = parser("prepare", __doc__, store="file:///folder or s3://bucket/prefix")
    options.add_argument(
        "--recipe", type=Path, required=True, metavar="FILE", help="recipe, a YAML file"
    )
    options.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe",
    )
    options.add_argument(
        "--resume-from",
        default="",
        metavar="URI",
        help="receipt of decide to go on from",
    )
    options.add_argument(
        "--job-id", default="", help="the pipeline job this run belongs to"
    )
    arguments = options.parse_args()

    # A function, so that a wrong recipe fails inside the step and ends with one line too.
    def inputs() -> PrepareInputs:
        document = load_recipe(arguments.recipe, tuple(arguments.set)).model_dump(
            mode="json"
        )
        return PrepareInputs(document, {}, arguments.resume_from, arguments.job_id)

    carry_out(
        arguments.store,
        lambda context: run(inputs(), context),
        lambda start: {"supervised": is_supervised(start)},
    )


if __name__ == "__main__":
    main()
