"""Carry out a training as the step does, with less address space than its micro-batch needs: `…
JOB_FILE ROOM_MIB`."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch

import components.train.process.worker  # noqa: F401 — so that what it maps is counted
from components.runtime.context import make_context
from components.train.launch.local_processes import carry_out
from components.train.process.job import Job


def main() -> None:
    """Limit this process and its children, then train."""
    job = Job.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.ones(8, 8) @ torch.ones(8, 8)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf(
        "SC_PAGE_SIZE"
    )
    most = mapped + int(sys.argv[2]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    carry_out(make_context(job.store, os.environ), [job])


if __name__ == "__main__":
    main()
