"""Promote or reject the candidate of a round, diagnose, plan the next round or stop. Prints `go`
too. `what-if` instead of the options decides a finished campaign again under other settings and
writes nothing."""

import sys

from components.decide import what_if
from components.decide.step import DecideInputs, goes_on, run
from components.runtime.context import Context
from components.runtime.entrypoints import carry_out, mix_of, parser, receipt_at


def main() -> None:
    """Run the step from a container, a job or a laptop."""
    # Asked first: the options of the step are required, and what-if has others.
    if sys.argv[1:2] == ["what-if"]:
        what_if.main(sys.argv[2:])
        return
    arguments = parser(
        "decide",
        __doc__,
        state="receipt of prepare or decide that the round began from",
        mix="receipt of select; in round 0 that of prepare",
        candidate="receipt of train",
        results="receipt of evaluate",
    ).parse_args()

    def inputs(context: Context) -> DecideInputs:
        return DecideInputs(
            state=arguments.state,
            mix=mix_of(context, receipt_at(context, arguments.mix)),
            train=receipt_at(context, arguments.candidate),
            evaluate=receipt_at(context, arguments.results),
        )

    carry_out(
        arguments.state,
        lambda context: run(inputs(context), context),
        lambda decided: {"go": goes_on(decided)},
    )


if __name__ == "__main__":
    main()
