"""A worker process: it does jobs until its parent has no more, or is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait

from algos import RunError, UserError
from eval.process.quiet import quiet
from eval.process.safe_path import ordinary_path
from eval.process.stopping import SIGNALS

STOP = "stop"
"""Sent to a worker: the job that is going on ends as it next tells its progress."""


def serve(pipe: Connection) -> None:
    """A worker's life: jobs from the pipe until it says None. Ctrl-C and SIGTERM are the parent's to handle."""
    ordinary_path()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not SIG_IGN, which a program that a reward starts would inherit: it could not be terminated.
    signal.signal(signal.SIGTERM, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):  # the parent's, under which this process was started
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet()
    import eval.run  # noqa: F401 (what jobs need, loaded while there is none yet)

    stop = False

    def progress(fraction: float, words: str) -> bool:
        nonlocal stop
        try:
            pipe.send(("progress", fraction, words))
            while pipe.poll():
                stop = pipe.recv() == STOP or stop
        except (EOFError, OSError):  # the parent is gone, which is no fault of the job's
            os._exit(1)
        return not stop

    while (work := pipe.recv()) is not None:
        if work == STOP:
            continue
        try:
            status = work(progress)
        except (UserError, RunError, OSError) as error:
            pipe.send(("raised", 1.0, error))
            continue
        pipe.send(("end", 1.0, status))


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers: they would go on writing beside whoever resumes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
