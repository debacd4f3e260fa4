"""What every `python -m components.<step>` does around its step: arguments, surroundings, the
receipt's URI."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from components.common.context import Context
from components.common.receipts import Receipt, read_receipt, receipt_uri, ref_of_uri
from components.common.shell import step_context


def parser(step: str, description: str | None, **required: str) -> argparse.ArgumentParser:
    """A parser of the step's command line, with one required option per keyword (name → help)."""
    made = argparse.ArgumentParser(
        prog=f"python -m components.{step}",
        description=description,
        epilog="Prints the URI of the receipt. Exit status: 2 wrong input, 3 damaged data, 75 try again.",
        allow_abbrev=False,
    )
    for name, text in required.items():
        made.add_argument(f"--{name.replace('_', '-')}", required=True, metavar="URI", help=text)
    return made


def receipt_at(context: Context, uri: str) -> Receipt:
    """The receipt behind a URI. Raises UserError if it is of another store, Missing or Corrupt if
    it is no receipt."""
    return read_receipt(context, ref_of_uri(context, uri))


def carry_out(store_or_state: str, step: Callable[[Context], Receipt], *told: str) -> None:
    """Run a step with the surroundings of its store and print the URI of its receipt, then
    `name=value`, in JSON, for each name of the summary in `told`. Nothing else reaches standard
    output: what libraries print there goes to standard error. Ends the process as `step_context`
    says.
    """
    with step_context(store_or_state) as context:
        with stdout_to_stderr():
            receipt = step(context)
        print(receipt_uri(context, receipt))
        for name in told:
            print(f"{name}={json.dumps(receipt.summary[name])}")


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send standard output, that of child processes too, to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
