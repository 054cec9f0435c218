"""What the process does with memory that torch frees on a CPU."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_LARGEST, _LARGEST_ONCE = 2**31 - 1, 32 * 2**20  # what it takes, and what older versions took for the second


@cache
def keep_freed() -> bool:
    """From now on freed memory, in blocks of up to 2 GiB, stays with the process, ready to be used again; False where
    the C library is not glibc, whose heap would else give large tensors back to the system with every step and wait for
    it to hand out and clear the same pages again, which took up to a tenth of a step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    taken = bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) or bool(mallopt(_MMAP_THRESHOLD, _LARGEST_ONCE))
    return bool(mallopt(_TRIM_THRESHOLD, _LARGEST)) and taken
