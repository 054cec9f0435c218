"""Processes that import nothing from the working directory, which may be a stranger's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH = "PYTHONSAFEPATH"
_OURS = "for-workers"  # any value counts


@contextmanager
def safe_path() -> Iterator[None]:
    """Python processes started in the block, such as multiprocessing's, do not look for modules where they start.

    They are started as `python -c`, which looks there first: a file `multiprocessing.py` there would be run.
    """
    if os.environ.get(_SWITCH):
        yield
        return
    os.environ[_SWITCH] = _OURS
    try:
        yield
    finally:
        del os.environ[_SWITCH]


def ordinary_path() -> None:
    """In a process that was started so: those that it starts in turn are as they would be elsewhere."""
    if os.environ.get(_SWITCH) == _OURS:
        del os.environ[_SWITCH]
