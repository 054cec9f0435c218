"""Jobs, in this process or in worker processes. The result is the same either way.

Ctrl-C (or SIGTERM) asks the jobs to stop: each saves what it has as it next tells its progress and ends. A second one stops at
once. Workers hear of it from this process alone, so that it may be sent to all of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from algos import UserError
from algos.engine.memory import release
from eval.experiment import Experiment
from eval.process.jobs import Job, Update
from eval.process.stopping import SAVED, SIGNALS, Stopping, stoppable
from eval.process.worker import STOP, safe_path, serve


class Workers:
    """Does jobs, `count` at a time, each in one of as many processes; or here, where there is only one of either.

    Processes stay until the block ends: each takes seconds to load torch and transformers. One that dies takes its own job
    with it, not the others.
    """

    def __init__(self, count: int, device: str = "cpu", at_once: int | None = None) -> None:
        """`device`: on which the jobs compute. `at_once`: how many of the processes have a job at most; None: all."""
        self.count, self.device, self.at_once = count, device, min(count, at_once or count)
        self.share = 1 / self.at_once
        # Spawned, not forked: a forked child inherits torch's thread pools in an unknown state.
        self.context = multiprocessing.get_context("spawn")
        self.idle: list[_Worker] = []
        self.processes: list[Any] = []
        """All that were ever started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            for worker in self.idle:
                # A mistake of the user's is said at once, not when all that was to be loaded is.
                worker.dismiss(_LEAVING if kind is None else 0)
        finally:
            # Also processes that an interrupt left in no list: at exit Python would wait for them, and workers ignore SIGTERM.
            for process in self.processes:
                _end(process)

    def expect(self, jobs: int) -> None:
        """Lets processes for so many jobs begin to load what jobs need, while this one does something else."""
        if min(self.count, jobs) > 1:
            self.idle += [self._hire() for _ in range(min(self.count, jobs) - len(self.idle))]

    def do(self, jobs: Sequence[Job], update: Update, stopped: str = SAVED) -> None:
        """Every job. Raises what a job raises, and KeyboardInterrupt once the jobs have stopped where the user asked them
        to, who is told that `stopped` becomes of them."""
        if self.count > 1:
            release()  # what this process keeps for later, its workers cannot have
        with stoppable(stopped) as stopping:
            if min(self.count, len(jobs)) <= 1:
                _work_here(jobs, update, stopping)
            else:
                _Shift(self, jobs, update, stopping).work()
        if stopping.asked:
            raise KeyboardInterrupt

    def take(self) -> _Worker:
        """One that has nothing to do."""
        while self.idle:
            worker = self.idle.pop()
            if worker.process.is_alive():
                return worker
            worker.process.join()
        return self._hire()

    def _hire(self) -> _Worker:
        mine, theirs = self.context.Pipe()
        process = self.context.Process(target=serve, args=(theirs, self.device, self.share), daemon=True)
        with safe_path(), _signals_later():
            process.start()
            self.processes.append(process)
        theirs.close()  # so that the pipe ends when the worker does
        return _Worker(process, mine)


def _work_here(jobs: Sequence[Job], update: Update, stopping: Stopping) -> None:
    for job in jobs:
        if stopping.asked:
            return

        def progress(fraction: float, words: str, job: Job = job) -> bool:
            update(job, fraction, words)
            return not stopping.asked

        update(job, 1.0, job.work(progress))
        release()


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    job: Job | None = None

    def dismiss(self, seconds: float) -> None:
        """Between jobs; it has so long to end by itself."""
        with suppress(OSError):  # it is dead already
            self.pipe.send(None)
        self.process.join(seconds)
        _end(self.process)


def _end(process: Any) -> None:
    """At once: workers heed nothing less."""
    process.kill()
    process.join()


_LISTENING = 0.2  # seconds between looks at whether the user asked to stop
_LEAVING = 10.0  # seconds in which a worker that has nothing to do may end by itself


class _Shift:
    """Jobs while they are done by workers."""

    def __init__(self, staff: Workers, jobs: Sequence[Job], update: Update, stopping: Stopping) -> None:
        self.waiting = list(jobs)
        self.staff, self.update, self.stopping = staff, update, stopping
        self.told = False
        self.busy: list[_Worker] = []

    def work(self) -> None:
        try:
            for _ in range(min(self.staff.count, len(self.waiting))):
                self._assign(self.staff.take())
            while self.busy:
                if self.stopping.asked and not self.told:
                    self._tell_to_stop()
                ready = wait([worker.pipe for worker in self.busy], timeout=_LISTENING)
                for worker in [worker for worker in self.busy if worker.pipe in ready]:
                    self._hear(worker)
        finally:
            for worker in self.busy:
                _end(worker.process)

    def _tell_to_stop(self) -> None:
        """The jobs that are going on end as they next tell their progress; those that wait are not begun."""
        self.told, self.waiting = True, []
        for worker in self.busy:
            with suppress(OSError):  # it died just now, which its pipe is about to tell
                worker.pipe.send(STOP)

    def _assign(self, worker: _Worker) -> None:
        """The next job, to a worker that has none, or to another where that one died between two jobs."""
        worker.job = self.waiting.pop(0)
        self.busy.append(worker)
        try:
            worker.pipe.send(worker.job.work)
        except OSError:  # the job has not begun, so it does not fail
            self.busy.remove(worker)
            self.waiting.insert(0, worker.job)
            _end(worker.process)
            self._assign(self.staff.take())

    def _hear(self, worker: _Worker) -> None:
        assert worker.job is not None
        try:
            kind, fraction, words = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if kind == "raised":
            raise words  # the job's own exception, as if it had run here
        self.update(worker.job, fraction, words)
        if kind == "end":
            self.busy.remove(worker)
            if self.waiting:
                self._assign(worker)
            else:
                self.staff.idle.append(worker)

    def _bury(self, worker: _Worker) -> None:
        """The worker died: its job ended as the job says, another worker takes its place."""
        assert worker.job is not None
        worker.process.join()
        code = worker.process.exitcode
        cause = f"killed by signal {-code}" if code is not None and code < 0 else f"exit status {code}"
        self.busy.remove(worker)
        self.update(worker.job, 1.0, worker.job.died(cause))
        if self.waiting:
            self._assign(self.staff.take())


@contextmanager
def _signals_later() -> Iterator[None]:
    """A process that is started here hears neither Ctrl-C nor SIGTERM from its first moment, until it says what they are
    to it: terminals send the one to all processes of a command, batch systems the other. This process hears them at the
    block's end."""
    from multiprocessing import resource_tracker

    resource_tracker.getfd()  # as it starts, with the first worker, it would take the mask off again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def workers_for(experiment: Experiment, asked: int) -> int:
    """How many processes to start where so many were asked for: 0 leaves it to the machine. Raises UserError below 0."""
    if asked < 0:
        raise UserError(
            f"--workers must be at least 0; got {asked}. 0 means as many as cores allow on a CPU, 1 on a GPU."
        )
    if asked:
        return asked
    import torch

    if torch.cuda.is_available() and experiment.device != "cpu":
        return 1  # runs that share one GPU would compete for its memory
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // experiment.threads_per_run)
