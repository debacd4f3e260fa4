"""Limits and filters that a process puts on itself before it runs code of others."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import suppress

from components.sandbox import isolation, seccomp

MAX_OPEN_FILES = 64


class Unconfined(Exception):
    """The kernel took the filter, and allows what the filter forbids."""


def limit(*, cpu_seconds: int | None, memory_bytes: int) -> None:
    """Bound what this process may use; it cannot raise the bounds again.

    Args:
        cpu_seconds: The kernel kills it after so much computing; None: no bound.
        memory_bytes: Address space.
    """
    for kind, value in (
        (
            resource.RLIMIT_CPU,
            resource.RLIM_INFINITY if cpu_seconds is None else cpu_seconds,
        ),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        # Python writes "no bound" as -1.
        bound = min((bound for bound in (value, hard) if bound >= 0), default=-1)
        resource.setrlimit(kind, (bound, bound))


def confine(*, read_files: bool) -> None:
    """Install the filter of system calls, and see that it holds.

    Args:
        read_files: Let it open files for reading, but for those that show other processes where
            the kernel can keep them (`isolation`). Without, it opens none.

    Raises:
        OSError: The kernel refuses it.
        Unconfined: It does not hold.
    """
    # Asked before the filter, which forbids the question too.
    has_domain = read_files and isolation.has_landlock()
    if read_files:
        seccomp.forbid_new_privileges()
        isolation.isolate()
    seccomp.install(read_files=read_files)
    with suppress(PermissionError):
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
        raise Unconfined("a socket could be opened")
    with suppress(PermissionError):
        os.kill(os.getpid(), 0)
        raise Unconfined("a signal could be sent")
    if has_domain:
        with suppress(OSError):
            os.close(os.open(f"/proc/{os.getppid()}/environ", os.O_RDONLY))
            raise Unconfined("the environment of another process could be read")
    if not read_files:
        with suppress(PermissionError):
            os.close(os.open("/", os.O_RDONLY))
            raise Unconfined("a folder could be opened")
