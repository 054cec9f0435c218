"""What the system refuses, told in a line."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from algos import UserError
from algos.engine.errors import one_line
from algos.engine.storage import refused


@contextmanager
def disk_told(path: Path, *, resumed: bool = True) -> Iterator[None]:
    """What the system refuses is the user's to mend; what is there stays as it is. `resumed`: whether --resume is what goes
    on from there, rather than the same command."""
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            raise
        what = "be read or written" if refused(error, path) or _above(error, path) else "go on"
        # A comparison in which nothing has run was removed. os.path's own answer is no where it may not even look.
        there = resumed and os.path.exists(path / "experiment.yaml")
        again = f"go on with --resume {path}" if there else "repeat the command"
        raise UserError(f"{path} cannot {what}: {one_line(error)}. Fix that, and {again}.") from error


def _above(error: OSError, path: Path) -> bool:
    """Whether it is about a folder that `path` lies in, or would."""
    name = error.filename
    return isinstance(name, (str, os.PathLike)) and path.resolve().is_relative_to(Path(name).resolve())


def nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has left (`| head`). A BrokenPipeError alone does not say so: workers
    and what a reward or judge asks are at the other end of pipes and sockets, too."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)  # errors are told whatever is asked for
    except (OSError, ValueError):  # a notebook's output has no descriptor
        return False
    return bool(poll.poll(0))
