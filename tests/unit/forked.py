"""Processes of our own programs, forked from a Python that has imported torch and DeepSpeed.

To import them takes eight seconds of CPU time, each time.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

# DeepSpeed imports its Muon optimizer as it starts an engine, whatever the optimizer is, and with it
# torch's compiler: three of the four CPU seconds of a tiny training.
PRELOADED = [
    "components.train.process.worker",
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    # Puts the copies that it has of other packages on the path: where a step imports setuptools,
    # none of them is found by its name before.
    "setuptools",
]


def start(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdout: Path,
    stderr: Path,
) -> ForkServerProcess:
    """Start `python -m MODULE ARGUMENTS`; what it prints is added to two files, or to one."""
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(PRELOADED)
    process = forkserver.Process(
        target=_main,
        args=(module, list(arguments), dict(environment), str(stdout), str(stderr)),
    )
    process.start()
    return process


def _main(
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    stdout: str,
    stderr: str,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()
