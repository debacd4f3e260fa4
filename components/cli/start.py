"""The start of the command line, before anything that has to be installed is imported."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NoReturn

from components.errors import explain_missing_package


def run_command_line(pipeline: str, program: str = "python pipeline.py") -> NoReturn:
    """Run the verb that `sys.argv` names, and end the process with its exit status.

    Args:
        pipeline: Name of the module whose `build` makes the pipeline; verbs that need it import it.
        program: The command that the user typed, for help and messages.
    """
    if find_spec("kfp") is None:
        explain_missing_package("kfp")

    from components.cli.builder import builder_in
    from components.cli.main import main

    main(builder_in(pipeline), program)
