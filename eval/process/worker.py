"""A worker process: how it is started, and how it does jobs until its parent has no more, or is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait

import torch

from algos import RunError, UserError
from algos.engine.memory import release
from eval.process.quiet import quiet
from eval.process.stopping import SIGNALS

STOP = "stop"
"""Sent to a worker: the job that is going on ends as it next tells its progress."""
_SWITCH = "PYTHONSAFEPATH"
_OURS = "for-workers"  # any value counts
_TENSORS = 0.95  # of a GPU's memory, in all workers together; the rest is the driver's, for each process


def serve(pipe: Connection, device: str = "cpu", share: float = 1.0) -> None:
    """A worker's life: jobs from the pipe until it says None. Ctrl-C and SIGTERM are the parent's to handle. `share`: what
    it may have of the device's memory, where that is a GPU."""
    _ordinary_path()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not SIG_IGN, which a program that a reward starts would inherit: it could not be terminated.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the parent's mask, under which it was started
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet()
    import eval.run  # noqa: F401 (what jobs need, loaded while there is none yet)

    stop = bounded = False

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
            if not bounded:
                keep_to(share, device)
                bounded = True
            status = work(progress)
        except (UserError, RunError, OSError) as error:
            pipe.send(("raised", 1.0, error))
            continue
        finally:
            release()  # the next job's phases differ from this one's, and others may use the same GPU
        pipe.send(("end", 1.0, status))


def keep_to(share: float, device: str) -> None:
    """From now on this process takes no more than its share of the GPU's memory: what one keeps for later would be missing
    in another. Beyond it memory runs out, which is met with smaller portions. Does nothing for a process that has the GPU
    for itself."""
    from algos.engine.models.loading import pick_device

    if share < 1 and (where := pick_device(device)).type == "cuda":
        torch.cuda.set_per_process_memory_fraction(_TENSORS * share, where.index)


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


def _ordinary_path() -> None:
    """In a process that was started so: those that it starts in turn are as they would be elsewhere."""
    if os.environ.get(_SWITCH) == _OURS:
        del os.environ[_SWITCH]


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers: they would go on writing beside whoever resumes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
