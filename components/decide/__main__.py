"""Promote or reject the candidate of a round, diagnose, plan the next round or stop. Prints `go`
too. `first-champion --state URI --results URI` makes the measured base model the first champion.
`what-if` instead of the options decides a finished campaign again under other settings and writes
nothing."""

import sys

from components.decide import first_champion, what_if
from components.decide.step import DecideInputs, goes_on, run
from components.runtime.context import Context
from components.runtime.entrypoints import carry_out, mix_of, parser, receipt_at


def main() -> None:
    """Run the step from a container, a job or a laptop."""
    # Asked first: the options of the step are required, and what-if has others.
    if sys.argv[1:2] == ["what-if"]:
        what_if.main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["first-champion"]:
        _first_champion(sys.argv[2:])
        return
    arguments = parser(
        "decide",
        __doc__,
        state="receipt of first-champion or decide that the round began from",
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


def _first_champion(options: list[str]) -> None:
    arguments = parser(
        "decide first-champion",
        first_champion.__doc__,
        state="receipt of prepare",
        results="receipt of evaluate, of the base model",
    ).parse_args(options)

    def inputs(context: Context) -> first_champion.FirstChampionInputs:
        evaluation = receipt_at(context, arguments.results)
        return first_champion.FirstChampionInputs(arguments.state, evaluation)

    carry_out(
        arguments.state, lambda context: first_champion.run(inputs(context), context)
    )


if __name__ == "__main__":
    main()
