"""The end of a process whose parent was killed, and could end nobody any more."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def end_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process as soon as its parent's thread that began it is gone.

    Its children do not inherit that: each asks for it itself. Elsewhere than on Linux only a parent
    that is gone already is noticed.

    Args:
        parent_pid: The parent, which may be gone before this process can look.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died before the line above took effect.
    if os.getppid() != parent_pid:
        os._exit(1)
