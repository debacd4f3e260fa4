"""Promote or reject the candidate of a round, diagnose, plan the next round or stop. Prints `go`
too. `what-if` instead of the options decides a finished campaign again under other settings and
writes nothing."""

import sys

from components.decide import what_if
from components.decide.step import inputs_from, run
from components.runtime.entrypoints import carry_out, parser, receipt_at


def main() -> None:
    """Run the step from a container, a job or a laptop."""
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
    uris = (arguments.mix, arguments.candidate, arguments.results)
    carry_out(
        arguments.state,
        lambda context: run(
            inputs_from(context, arguments.state, *(receipt_at(context, uri) for uri in uris)),
            context,
        ),
        "go",
    )


if __name__ == "__main__":
    main()
