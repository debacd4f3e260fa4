"""Publish the champion of a state as an immutable folder of the store. Prints what became of it, and
its prefix."""

from components.publish.step import PublishInputs, outcome_of, run
from components.runtime.context import Context
from components.runtime.entrypoints import carry_out, parser
from components.runtime.receipts import Receipt


def main() -> None:
    """Run the step from a container, a job or a laptop."""
    arguments = parser(
        "publish", __doc__, state="the last receipt of decide"
    ).parse_args()
    outcome: dict[str, bool | str] = {}

    def step(context: Context) -> Receipt:
        receipt = run(PublishInputs(arguments.state), context)
        outcome.update(outcome_of(context, receipt))
        return receipt

    carry_out(arguments.state, step, lambda _: outcome)


if __name__ == "__main__":
    main()
