"""What the system refuses, told in a line."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from algos import UserError
from algos.engine.errors import one_line
from algos.engine.storage import refused


@contextmanager
def disk_told(path: Path) -> Iterator[None]:
    """What the system refuses is the user's to mend; what is there stays as it is."""
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            raise
        what = "be written" if refused(error, path) else "go on"
        # A comparison in which nothing has run was removed.
        again = f"go on with --resume {path}" if (path / "experiment.yaml").exists() else "repeat the command"
        raise UserError(f"{path} cannot {what}: {one_line(error)}. Fix that, and {again}.") from error


def nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has left (`| head`). A BrokenPipeError alone does not say so: workers
    and what a reward or judge asks are at the other end of pipes and sockets, too."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)  # errors are told whatever is asked for
    except (OSError, ValueError):  # a notebook's output has no descriptor
        return False
    return bool(poll.poll(0))
