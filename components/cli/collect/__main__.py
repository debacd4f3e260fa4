"""Collect the garbage of a store in an image of the steps, which has no command line.

`python -m components.cli.collect --store s3://bucket/prefix --delete` does what `ratchet gc` does
with the same options. manifests/components/gc calls it each day.
"""

from __future__ import annotations

import argparse
import os
import sys

from components.cli.collect import DEFAULT_GRACE_HOURS, DEFAULT_KEPT_RUNS
from components.cli.collect.request import Request, account_lines, carry_out
from components.errors import UserError
from components.runtime.context import Context
from components.runtime.entrypoints import step_context


def main() -> None:
    """Collect once, and print the account. Ends the process as `step_context` says."""
    arguments = _parser().parse_args()
    with step_context(arguments.store) as context:
        request = Request(arguments.delete, arguments.keep_runs, arguments.grace_hours)
        _require_a_run(context)
        account = carry_out(context, request)
    print("\n".join(account_lines(account)))
    if not request.delete:
        print("this was a dry run; --delete does it", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    variable = os.environ.get("RATCHET_STORE")
    options = argparse.ArgumentParser(
        prog="python -m components.cli.collect", description=__doc__, allow_abbrev=False
    )
    options.add_argument(
        "--store",
        metavar="URI",
        default=variable,
        required=not variable,
        help="s3://bucket/prefix or file:///folder; by default RATCHET_STORE",
    )
    options.add_argument(
        "--delete", action="store_true", help="condemn, and delete what is due"
    )
    options.add_argument(
        "--keep-runs", type=int, metavar="N", default=DEFAULT_KEPT_RUNS
    )
    options.add_argument(
        "--grace-hours", type=float, metavar="HOURS", default=DEFAULT_GRACE_HOURS
    )
    return options


def _require_a_run(context: Context) -> None:
    """Raise UserError for a store without runs.

    A scheduled collection of a wrong prefix would succeed each day while the right one fills up.
    """
    if next(iter(context.store.list("attempts/")), None) is None:
        raise UserError(
            f"{context.store.root} holds no run: set RATCHET_STORE to the store that runs write to"
        )


if __name__ == "__main__":
    main()
