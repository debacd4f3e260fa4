"""Measure a candidate on the validation and test prompts."""

from components.evaluate.step import EvaluateInputs, run
from components.runtime.entrypoints import carry_out, parser, receipt_at


def main() -> None:
    """Run the step from a container, a job or a laptop."""
    arguments = parser(
        "evaluate",
        __doc__,
        state="receipt of prepare or decide that the round begins from",
        candidate="receipt of train",
    ).parse_args()
    carry_out(
        arguments.state,
        lambda context: run(
            EvaluateInputs(arguments.state, receipt_at(context, arguments.candidate)), context
        ),
    )


if __name__ == "__main__":
    main()
