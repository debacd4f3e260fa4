"""Publish the champion of a state as an immutable folder of the store. Prints its prefix too."""

from components.publish.step import PublishInputs, prefix_of, run
from components.runtime.entrypoints import carry_out, parser


def main() -> None:
    """Run the step from a container, a job or a laptop."""
    arguments = parser("publish", __doc__, state="the last receipt of decide").parse_args()
    carry_out(
        arguments.state,
        lambda context: run(PublishInputs(arguments.state), context),
        lambda published: {"prefix": prefix_of(published)},
    )


if __name__ == "__main__":
    main()
