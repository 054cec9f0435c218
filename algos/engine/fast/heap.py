"""What a process on a CPU keeps of memory and kernels that torch and oneDNN no longer use."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_LARGEST, _LARGEST_ONCE = 2**31 - 1, 32 * 2**20  # what it takes, and what older versions took for the second
KERNELS = 64
"""Twice as many as an update needs whose texts all have one length."""


@cache
def keep_freed() -> bool:
    """From now on freed memory, in blocks of up to 2 GiB, stays with the process to be used again. Otherwise glibc's
    heap returns large tensors to the system at every step, and waits for it to hand out and clear the same pages again,
    which took up to a tenth of a step. False where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    taken = bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) or bool(mallopt(_MMAP_THRESHOLD, _LARGEST_ONCE))
    return bool(mallopt(_TRIM_THRESHOLD, _LARGEST)) and taken


def keep_few_kernels() -> None:
    """From now on oneDNN, and the layer through which torch calls it, keep their last `KERNELS` kernels instead of
    1,024, unless the environment says otherwise or they have been used before. Each shape has its own kernel, of half a
    MiB to one, and texts of new lengths make new shapes: at 4 layers of width 256 with prompts of 8 to 120 tokens, a
    process of 469 MiB grew to 1,830 MiB in 200 updates, and now grows to 803."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KERNELS))
