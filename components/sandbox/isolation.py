"""Keeps a process that may read files from seeing into other processes.

The kernel shows the environment, the memory and the open files of a process, by `/proc`, to every
process of the same user, and those of all to root. They hold credentials. It does not from within a
domain of Landlock (landlock(7)), to a process without the rights of root (capabilities(7)). Neither
needs privileges.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

# System calls of Landlock have the same numbers on all machines.
_CREATE_RULESET = 444
_RESTRICT_SELF = 446
_ASK_VERSION = 1
_WRITE_FILE = 1 << 1
_CAPABILITY_VERSION = 0x20080522
# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: root still reads the files of all users.
_KEPT_CAPABILITIES = 1 << 1 | 1 << 2


def has_landlock() -> bool:
    """Return whether this kernel has domains: Linux from 5.13 on, where they are not turned off."""
    try:
        _call("syscall", _CREATE_RULESET, None, 0, _ASK_VERSION)
    except (OSError, AttributeError):
        # Systems other than Linux may have no function of this name.
        return False
    return True


def isolate() -> None:
    """Give up the rights of root, and enter a domain where the kernel has them; for good.

    The process must have forbidden itself new privileges (`seccomp.forbid_new_privileges`).

    Raises:
        OSError: The kernel refuses.
    """
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    held = ctypes.create_string_buffer(24)
    _call("capget", header, held)
    effective, permitted, *_ = struct.unpack("=6I", held.raw)
    kept = (effective & _KEPT_CAPABILITIES, permitted & _KEPT_CAPABILITIES, 0, 0, 0, 0)
    _call("capset", header, struct.pack("=6I", *kept))
    if not has_landlock():
        return
    # A domain must forbid something; nothing here writes files anyway.
    ruleset = _call("syscall", _CREATE_RULESET, struct.pack("=Q", _WRITE_FILE), 8, 0)
    try:
        _call("syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _call(
    function: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None
) -> int:
    """Return the result of a function of the C library. Raise OSError if it fails."""
    library = ctypes.CDLL(None, use_errno=True)
    values = [
        ctypes.c_long(each) if isinstance(each, int) else each for each in arguments
    ]
    result: int = getattr(library, function)(*values)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {errno.errorcode.get(code, code)}")
    return result
