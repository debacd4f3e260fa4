"""Fine-tune a candidate on the mix of a round with DeepSpeed."""

from components.runtime.entrypoints import carry_out, mix_of, parser, receipt_at
from components.train.step import TrainInputs, run


def main() -> None:
    """Run the step from a container, a job or a laptop."""
    arguments = parser(
        "train",
        __doc__,
        state="receipt of prepare or decide that the round begins from",
        mix="receipt of select; in round 0 that of prepare",
    ).parse_args()
    carry_out(
        arguments.state,
        lambda context: run(
            TrainInputs(
                arguments.state, mix_of(context, receipt_at(context, arguments.mix))
            ),
            context,
        ),
    )


if __name__ == "__main__":
    main()
