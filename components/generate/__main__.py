"""Sample answers from the champion for one shard of the round that a state begins."""

from components.generate.step import GenerateInputs, run
from components.runtime.entrypoints import carry_out, parser


def main() -> None:
    """The step from a container, a job or a laptop."""
    options = parser(
        "generate", __doc__, state="receipt of prepare or decide that the round begins from"
    )
    options.add_argument(
        "--shard", type=int, default=0, help="0 to generate.shards - 1 of the recipe; 0 by default"
    )
    given = options.parse_args()
    carry_out(given.state, lambda context: run(GenerateInputs(given.state, given.shard), context))


if __name__ == "__main__":
    main()
