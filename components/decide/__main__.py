"""Promote or reject the candidate of a round, diagnose, plan the next round or stop. Prints `go`
too. `what-if` instead of the options decides a finished campaign again under other settings and
writes nothing."""

import sys

from components.decide.step import inputs_from, run
from components.decide.what_if import main as what_if
from components.runtime.entrypoints import carry_out, parser, receipt_at


def main() -> None:
    """The step from a container, a job or a laptop."""
    if sys.argv[1:2] == ["what-if"]:
        what_if(sys.argv[2:])
        return
    given = parser(
        "decide",
        __doc__,
        state="receipt of prepare or decide that the round began from",
        mix="receipt of select; in round 0 that of prepare",
        candidate="receipt of train",
        results="receipt of evaluate",
    ).parse_args()
    uris = (given.mix, given.candidate, given.results)
    carry_out(
        given.state,
        lambda context: run(
            inputs_from(context, given.state, *(receipt_at(context, uri) for uri in uris)), context
        ),
        "go",
    )


if __name__ == "__main__":
    main()
