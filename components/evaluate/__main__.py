"""Measure a candidate on the dev, validation and test prompts."""

from components.evaluate.step import EvaluateInputs, run
from components.runtime.context import Context
from components.runtime.entrypoints import base_of, carry_out, parser, receipt_at


def main() -> None:
    """Run the step from a container, a job or a laptop."""
    arguments = parser(
        "evaluate",
        __doc__,
        state="receipt of prepare, first-champion or decide that the round begins from",
        candidate="receipt of train; for the base model that of prepare",
    ).parse_args()

    def inputs(context: Context) -> EvaluateInputs:
        candidate = base_of(context, receipt_at(context, arguments.candidate))
        return EvaluateInputs(arguments.state, candidate)

    carry_out(arguments.state, lambda context: run(inputs(context), context))


if __name__ == "__main__":
    main()
