"""Sample answers from the champion for one shard of the round that a state begins."""

from components.generate.step import GenerateInputs, run
from components.runtime.entrypoints import carry_out, parser


def main() -> None:
    """Run the step from a container, a job or a laptop."""
    options = parser(
        "generate",
        __doc__,
        state="receipt of prepare or decide that the round begins from",
    )
    options.add_argument(
        "--shard",
        type=int,
        default=0,
        help="0 to generate.shards - 1 of the recipe; 0 by default",
    )
    arguments = options.parse_args()
    carry_out(
        arguments.state,
        lambda context: run(GenerateInputs(arguments.state, arguments.shard), context),
    )


if __name__ == "__main__":
    main()
