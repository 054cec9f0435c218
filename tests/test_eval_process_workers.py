"""Workers: processes that stay from one call to the next, and what becomes of those that die."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from algos import RunError, UserError
from eval.process import worker
from eval.process import workers as workers_module
from eval.process.jobs import Job, Progress
from eval.process.worker import keep_to, serve
from eval.process.workers import Workers


def who(progress: Progress) -> str:
    """A job that lasts until the other worker has one, too."""
    progress(0.5, "half way")
    time.sleep(0.5)
    return str(os.getpid())


def at_once(progress: Progress) -> str:
    return str(os.getpid())


def fails(progress: Progress) -> str:
    raise RunError("as a job does")


def dies(progress: Progress) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hears_sigterm(progress: Progress) -> str:
    """How a program ends that is terminated, started by a worker that was sent the same."""
    os.kill(os.getpid(), signal.SIGTERM)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as program:
        program.terminate()
    return str(program.returncode)


def has_no_disk(progress: Progress) -> str:
    raise OSError(errno.ENOSPC, "No space left on device")


def lost(cause: str) -> str:
    return f"lost: {cause}"


def ends_unheard(marker: Path, progress: Progress) -> str:
    """Writes down what becomes of it, as a run does."""
    try:
        progress(0.5, "half way")
    except BaseException as error:
        marker.write_text(repr(error), encoding="utf-8")
    return "done"


class Told:
    """What was said of each job at its end."""

    def __init__(self) -> None:
        self.ends: dict[str, str] = {}

    def __call__(self, job: Job, fraction: float, words: str) -> None:
        if fraction == 1.0:
            assert job.name not in self.ends
            self.ends[job.name] = words


def done(workers: Workers, *jobs: Job) -> list[str]:
    told = Told()
    workers.do(jobs, told)
    return [told.ends[job.name] for job in jobs]


A, B, C = (Job(name, who, lost) for name in "abc")


@pytest.mark.usefixtures("forked")
def test_processes_stay_until_the_block_ends() -> None:
    with Workers(2) as workers:
        workers.expect(9)
        expected = {str(worker.process.pid) for worker in workers.idle}
        assert len(expected) == 2
        assert set(done(workers, A, B)) == expected
        assert set(done(workers, A, B, C)) == expected
        processes = [worker.process for worker in workers.idle]
        assert len(processes) == 2
    assert [process.exitcode for process in processes] == [0, 0]


def test_each_worker_has_a_share_of_a_gpus_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is what would be taken of it here: there is none."""
    taken: list[tuple[float, int | None]] = []
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, index: taken.append((share, index))
    )
    monkeypatch.setattr("algos.engine.models.loading.pick_device", torch.device)
    keep_to(1.0, "cuda")
    keep_to(0.5, "cpu")
    assert taken == []
    keep_to(0.5, "cuda")
    keep_to(0.25, "cuda:1")
    assert taken == [(0.475, None), (0.2375, 1)]
    assert Workers(4, "cuda").share == 0.25
    assert Workers(4, "cuda", at_once=2).share == 0.5
    assert Workers(2, "cuda", at_once=9).share == 0.5


def test_a_worker_keeps_to_its_share_before_its_first_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """And gives back what a job has left before it says that the job has ended."""
    done: list[str] = []
    monkeypatch.setattr(worker, "keep_to", lambda share, device: done.append(f"{share} of {device}"))
    monkeypatch.setattr(worker, "release", lambda: done.append("released"))
    monkeypatch.setattr(worker, "_end_with_parent", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    given = iter([lambda _: done.append("a job") or "done", fails, None])
    pipe = SimpleNamespace(recv=lambda: next(given), send=lambda said: done.append(said[0]))
    serve(pipe, "cuda", 0.5)  # type: ignore[arg-type]
    assert done == ["0.5 of cuda", "a job", "released", "end", "raised", "released"]


def test_a_process_gives_back_what_its_jobs_left(monkeypatch: pytest.MonkeyPatch) -> None:
    done_here: list[str] = []
    monkeypatch.setattr(workers_module, "release", lambda: done_here.append("released"))
    job = Job("a", lambda _: done_here.append("a job") or "done", lost)
    Workers(1).do([job, job], lambda *_: None)
    assert done_here == ["a job", "released"] * 2
    Workers(2).do([], lambda *_: None)  # workers cannot have what this process keeps
    assert done_here == ["a job", "released"] * 2 + ["released"]


def test_one_of_either_needs_no_process() -> None:
    with Workers(2) as several, Workers(1) as one:
        for workers, jobs in ((several, [A]), (one, [A, B])):
            workers.expect(len(jobs))
            assert set(done(workers, *jobs)) == {str(os.getpid())}
            assert workers.idle == []


@pytest.mark.usefixtures("forked")
def test_one_that_dies_takes_its_own_job_alone() -> None:
    with Workers(2) as workers:
        ends = done(workers, Job("d", dies, lost), A, B, C)
        assert ends[0] == "lost: killed by signal 9"
        assert all(end.isdecimal() for end in ends[1:])
        for worker in workers.idle:
            worker.process.kill()
            worker.process.join()
        assert len(set(done(workers, A, B))) == 2


@pytest.mark.usefixtures("forked")
def test_one_that_dies_between_two_jobs_takes_none() -> None:
    """Noting that a run has ended takes its time, in which the worker that did it may be killed."""
    workers, told = Workers(2), Told()

    def killing(job: Job, fraction: float, words: str) -> None:
        told(job, fraction, words)
        if len(told.ends) == 1:
            (process,) = (process for process in workers.processes if str(process.pid) == words)
            process.kill()
            process.join()

    jobs = [Job(name, at_once, lost) for name in "abcd"]
    with workers:
        workers.do(jobs, killing)
    assert told.ends.keys() == set("abcd")
    assert all(end.isdecimal() for end in told.ends.values())


@pytest.mark.usefixtures("forked")
def test_what_a_job_raises_ends_the_others_and_the_next_call_has_workers() -> None:
    with Workers(2) as workers:
        with pytest.raises(RunError, match="as a job does"):
            workers.do([Job("f", fails, lost), A, B], Told())
        assert len(set(done(workers, A, B))) == 2
        with pytest.raises(
            OSError, match="No space left on device"
        ):  # as it would be here, to be told as that
            workers.do([Job("d", has_no_disk, lost), A], Told())


@pytest.mark.usefixtures("forked")
def test_sigterm_is_the_parents_to_handle() -> None:
    """Batch systems send it to every process of a job. What a worker starts can be terminated all the same."""
    with Workers(2) as workers:
        ends = done(workers, Job("s", hears_sigterm, lost), Job("t", hears_sigterm, lost))
        assert ends == [str(-signal.SIGTERM)] * 2


def test_no_worker_is_left_whatever_interrupts() -> None:
    """One that was taken from the idle and has no job yet is in neither list."""
    workers = Workers(2)
    workers.expect(2)
    taken = workers.take()
    with pytest.raises(KeyboardInterrupt), workers:
        raise KeyboardInterrupt
    assert taken.process.exitcode == -signal.SIGKILL


def test_those_who_still_load_do_not_hold_up_a_mistake() -> None:
    workers = Workers(2)
    workers.expect(2)
    processes = [worker.process for worker in workers.idle]
    with pytest.raises(UserError, match="a mistake"), workers:
        raise UserError("a mistake")
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, -signal.SIGKILL]


def test_a_worker_whose_parent_is_gone_ends_without_a_fault_of_its_job(tmp_path: Path) -> None:
    mine, theirs = multiprocessing.Pipe()
    mine.send(partial(ends_unheard, tmp_path / "marker"))
    mine.close()
    pid = os.fork()
    if not pid:
        try:
            serve(theirs)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert not (tmp_path / "marker").exists()


def test_ctrl_c_in_the_moment_in_which_a_worker_starts_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """By this process, once: the worker that starts does not end of it."""
    start, sent = multiprocessing.context.SpawnProcess.start, []

    def interrupted(process: multiprocessing.context.SpawnProcess) -> None:
        if not sent:
            sent.append(process)
            os.kill(os.getpid(), signal.SIGINT)
        start(process)

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", interrupted)
    ended: list[str] = []
    with Workers(2) as workers:
        with pytest.raises(KeyboardInterrupt):
            workers.do(
                [Job("a", at_once, lost), Job("b", at_once, lost)], lambda *told: ended.append(told[2])
            )
        assert sent[0].is_alive()
    assert not any(words.startswith("lost") for words in ended)
