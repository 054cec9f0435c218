"""Ctrl-C once asks, twice insists."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SAID = b"stopping: the step in progress is finished and saved. Ctrl-C again stops at once.\n"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Stopping:
    """Whether the user, or who ends this machine's work politely, asked to stop."""

    asked: bool = False


@contextmanager
def stoppable() -> Iterator[Stopping]:
    """The block in which a first Ctrl-C or SIGTERM only asks, and a second raises KeyboardInterrupt.

    Outside the main thread, where no signal arrives, nobody asks.
    """
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def hear(_: int, __: FrameType | None) -> None:
        if stopping.asked:
            raise KeyboardInterrupt
        stopping.asked = True
        os.write(2, _SAID)  # not print, which the signal may have interrupted

    before = {number: signal.signal(number, hear) for number in _SIGNALS}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
