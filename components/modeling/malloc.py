"""How the C library treats memory that tensors give back."""

from __future__ import annotations

import ctypes
import functools

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Of glibc's malloc.h."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep the pages of freed tensors for the next ones; False where the C library
    is not glibc.

    Every step frees and allocates the same large tensors. By default glibc returns each to the
    kernel, which clears it when it is asked for again: with SmolLM2 on two cores that was a third
    of the CPU seconds of a training step, and 1.2 to 1.5 times its wall time (batch of 16 × 80
    tokens, bf16 autocast).
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20))
    return all(library.mallopt(name, value) for name, value in settings)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a tensor operation says that memory did not suffice: each allocator has
    its own words."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or "can't allocate memory" in text
        or "out of memory" in text.lower()
    )
