"""Runs, in this process or in worker processes. The result is the same either way."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from eval.quiet import quiet
from eval.store import Run

Update = Callable[[Run, float, str], None]
"""Told of a run: the fraction done and a few words; at its end 1.0 and its status."""


def launch(runs: Sequence[Run], directory: Path, workers: int, update: Update) -> None:
    """Carries out every run, `workers` at a time. A worker that dies fails its run, not the others."""
    if workers <= 1 or len(runs) <= 1:
        from eval.run import execute

        for run in runs:
            status = execute(directory, run.arm, run.seed, partial(update, run))
            update(run, 1.0, status)
        return
    _Pool(runs, directory, min(workers, len(runs)), update).work()


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    run: Run | None = None


class _Pool:
    """Processes that take one run after another; each loads torch once."""

    def __init__(self, runs: Sequence[Run], directory: Path, size: int, update: Update) -> None:
        self.waiting = list(runs)
        self.directory, self.size, self.update = directory, size, update
        # Spawned, not forked: a forked child inherits torch's thread pools in an unknown state.
        self.context = multiprocessing.get_context("spawn")
        self.workers: list[_Worker] = []

    def work(self) -> None:
        try:
            for _ in range(self.size):
                self._assign(self._hire())
            while self.workers:
                ready = wait([worker.pipe for worker in self.workers])
                for worker in [worker for worker in self.workers if worker.pipe in ready]:
                    self._hear(worker)
        finally:
            for worker in self.workers:
                worker.process.terminate()
                worker.process.join()

    def _hire(self) -> _Worker:
        mine, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.directory), daemon=True)
        process.start()
        theirs.close()  # so that the pipe ends when the worker does
        worker = _Worker(process, mine)
        self.workers.append(worker)
        return worker

    def _assign(self, worker: _Worker) -> None:
        if self.waiting:
            worker.run = self.waiting.pop(0)
            worker.pipe.send((worker.run.arm, worker.run.seed))
        else:
            worker.pipe.send(None)
            worker.process.join()
            self.workers.remove(worker)

    def _hear(self, worker: _Worker) -> None:
        assert worker.run is not None
        try:
            kind, fraction, words = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        self.update(worker.run, fraction, words)
        if kind == "end":
            self._assign(worker)

    def _bury(self, worker: _Worker) -> None:
        """The worker died: its run failed, another takes its place."""
        assert worker.run is not None
        worker.process.join()
        code = worker.process.exitcode
        cause = f"killed by signal {-code}" if code is not None and code < 0 else f"exit status {code}"
        worker.run.finish(
            status="failed", error=f"the worker process died ({cause}). If memory ran out, use fewer --workers.",
            fraction=None, updates=None, seconds=None, policy="",
        )  # fmt: skip
        self.update(worker.run, 1.0, "failed")
        self.workers.remove(worker)
        if self.waiting:
            self._assign(self._hire())


def _serve(pipe: Connection, directory: Path) -> None:
    """A worker's life: runs from the pipe until it says None. Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet()
    from eval.run import execute

    while (job := pipe.recv()) is not None:
        arm, seed = job
        status = execute(
            directory, arm, seed, lambda fraction, words: pipe.send(("progress", fraction, words))
        )
        pipe.send(("end", 1.0, status))
