"""One process at a time writes a comparison's directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from algos import UserError

LOCKS = ".locks"


@contextmanager
def held(directory: Path, name: str, wait: float = 0.0) -> Iterator[None]:
    """Holds one of a comparison's locks: `comparison`, `report` or `run-<folder>`.

    The system takes a lock back when its process ends, however it ends. Raises UserError naming the process
    that has it, after `wait` seconds.
    """
    from filelock import FileLock, Timeout

    file = directory / LOCKS / name
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{directory} is being written by {_holder(file)}. Wait until it is done, stop it with Ctrl-C, or name "
            "another folder with --out."
        ) from None
    try:
        with suppress(OSError):  # a full disk: the lock holds all the same
            file.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(file: Path) -> str:
    with suppress(OSError, ValueError):
        return f"process {int(file.read_text(encoding='utf-8'))}"
    return "another process"
