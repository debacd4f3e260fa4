"""Filter the samples of a round and mix the accepted ones with the labelled rows."""

from components.runtime.entrypoints import carry_out, parser, receipt_at
from components.select.step import SelectInputs, run


def main() -> None:
    """Run the step from a container, a job or a laptop."""
    options = parser(
        "select",
        __doc__,
        state="receipt of prepare or decide that the round begins from",
    )
    options.add_argument(
        "--samples",
        nargs="+",
        required=True,
        metavar="URI",
        help="receipts of all its shards",
    )
    arguments = options.parse_args()
    carry_out(
        arguments.state,
        lambda context: run(
            SelectInputs(
                arguments.state,
                tuple(receipt_at(context, uri) for uri in arguments.samples),
            ),
            context,
        ),
    )


if __name__ == "__main__":
    main()
