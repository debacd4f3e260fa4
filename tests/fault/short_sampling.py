"""Sample a shard as the step does, with little address space to spare: `… --state URI ROOM_MIB`."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch

import components.modeling.inference.answers  # noqa: F401 — so that what it maps is counted
from components.generate.step import GenerateInputs, run
from components.runtime.entrypoints import step_context


def main() -> None:
    """Limit this process, then sample."""
    state, room_mib = sys.argv[2:]
    torch.ones(8, 8) @ torch.ones(8, 8)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf(
        "SC_PAGE_SIZE"
    )
    most = mapped + int(room_mib) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with step_context(state) as context:
        run(GenerateInputs(state, 0), context)


if __name__ == "__main__":
    main()
