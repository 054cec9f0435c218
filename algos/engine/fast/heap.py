"""What the process keeps on a CPU of what torch and oneDNN are done with."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_LARGEST, _LARGEST_ONCE = 2**31 - 1, 32 * 2**20  # what it takes, and what older versions took for the second
KERNELS = 64
"""Twice as many as an update multiplies with whose texts all have one length."""


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


def keep_few_kernels() -> None:
    """From now on oneDNN, and what torch calls it through, keep their last `KERNELS` kernels instead of 1,024, unless
    the environment says otherwise, or either has been used before. There is one for every shape, of half a MiB to one,
    and texts of ever new lengths make ever new shapes: at 4 layers of width 256 with prompts of 8 to 120 tokens a
    process of 469 MiB had 1,830 after 200 updates, and has 803."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KERNELS))
