"""Ctrl-C once asks, twice insists."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAVED = "the step in progress is finished and saved"


class Stopped(Exception):
    """The user asked to stop; what is to be kept is saved."""


@dataclass
class Stopping:
    """Whether the user, or who ends this machine's work politely, asked to stop."""

    asked: bool = False


@contextmanager
def stoppable(stopped: str = SAVED) -> Iterator[Stopping]:
    """The block in which a first Ctrl-C or SIGTERM only asks, and a second raises KeyboardInterrupt.

    `stopped` is what the user is told becomes of the work.
    Outside the main thread, where no signal arrives, nobody asks.
    """
    stopping, said = Stopping(), f"stopping: {stopped}. Ctrl-C again stops at once.\n".encode()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def hear(_: int, __: FrameType | None) -> None:
        if stopping.asked:
            raise KeyboardInterrupt
        stopping.asked = True
        os.write(2, said)  # not print, which the signal may have interrupted

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
