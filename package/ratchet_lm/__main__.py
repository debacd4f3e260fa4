"""The command `ratchet`: the command line of `python pipeline.py` from an installed package."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ratchet_lm import __version__

PACKAGE = Path(__file__).resolve().parent


def main() -> None:
    """Run the verb that `sys.argv` names; `--version` alone prints the version.

    Ends the process with the exit status of the verb.
    """
    if sys.argv[1:] == ["--version"]:
        print(f"ratchet {__version__}")
        return
    source = source_folder()
    prepare_imports(source)
    prepare_children(source)

    from components.cli.start import run_command_line

    run_command_line("pipeline", program="ratchet")


def source_folder() -> Path:
    """Return the folder with pipeline.py, components/ and the files that they read.

    In a wheel this is the copy inside the package; in an editable installation there is none, and
    it is the checkout itself.
    """
    copied = PACKAGE / "source"
    return copied if copied.is_dir() else PACKAGE.parents[1]


def prepare_imports(source: Path) -> None:
    """Let this process find `components` and `pipeline` in `source` before anywhere else."""
    sys.path.insert(0, str(source))


def prepare_children(source: Path) -> None:
    """Let child processes import from `source`, whatever lies in the folder the user works in."""
    # `python -m` puts the working folder first on the path. Kubeflow projects often have a
    # components/ or a pipeline.py of their own, which would be imported in place of ours.
    os.environ["PYTHONSAFEPATH"] = "1"
    put_first("PYTHONPATH", source)
    # Where site-packages lies inside somebody's repository, that repository's commit is not the
    # version of this code.
    put_first("GIT_CEILING_DIRECTORIES", PACKAGE)


def put_first(name: str, folder: Path) -> None:
    """Put a folder before those that an environment variable lists."""
    folders = [str(folder), os.environ.get(name, "")]
    os.environ[name] = os.pathsep.join(filter(None, folders))


if __name__ == "__main__":
    main()
