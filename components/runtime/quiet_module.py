"""Runs another module with a quiet log: `python3 -m components.runtime.quiet_module MODULE …`.

KFP's executor logs forty lines, the step's input as JSON among them, before the first line of a
step. Its inputs are in the UI; in the log of a pod our lines are the first and the last.

The standard library alone is imported here.
"""

from __future__ import annotations

import logging
import runpy
import sys
from collections.abc import Sequence

MODULE = "components.runtime.quiet_module"
_START = "python3 -m "


def quiet(command: Sequence[str], module: str) -> list[str]:
    """Return a command in which Python runs this module before `module`, in shell text too."""
    return [
        word.replace(f"{_START}{module}", f"{_START}{MODULE} {module}")
        for word in command
    ]


def main() -> None:
    """Run the module that the first argument names, with the others."""
    # The executor's own basicConfig leaves a logger that has a handler as it is.
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
