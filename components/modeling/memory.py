"""Memory of tensors: how the C library keeps it, and how an error says that it did not suffice."""

from __future__ import annotations

import ctypes
import functools

import torch

# Parameters of `mallopt`, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_TOP_PAD_BYTES = 64 * 2**20
_MAX_INT = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep the pages of freed tensors for the next ones.

    Returns False where the C library is not glibc, which is left as it is.
    """
    # Every step frees and allocates the same large tensors. By default glibc returns each to the
    # kernel, which clears it when it is asked for again: with SmolLM2-135M on two cores that was a
    # third of the CPU seconds of a training step, and 1.2 to 1.5 times its wall time (batch of
    # 16 × 80 tokens, bf16 autocast).
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = {
        _M_MMAP_MAX: 0,
        _M_TRIM_THRESHOLD: _MAX_INT,
        _M_TOP_PAD: _TOP_PAD_BYTES,
    }
    return all(
        library.mallopt(parameter, value) for parameter, value in settings.items()
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error of a tensor operation says that memory did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch's CPU allocator raises a plain RuntimeError with these words.
    message = str(error).lower()
    return "can't allocate memory" in message or "out of memory" in message
