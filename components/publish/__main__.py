"""Publish the champion of a state as an immutable folder of the store. Prints its prefix too."""

from components.publish.step import PublishInputs, prefix_of, run
from components.runtime.entrypoints import carry_out, parser


def main() -> None:
    """The step from a container, a job or a laptop."""
    given = parser("publish", __doc__, state="the last receipt of decide").parse_args()
    carry_out(
        given.state,
        lambda context: run(PublishInputs(given.state), context),
        lambda published: {"prefix": prefix_of(published)},
    )


if __name__ == "__main__":
    main()
