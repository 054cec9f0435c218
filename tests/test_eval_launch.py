"""Workers: processes that stay from one call to the next, and what becomes of those that die."""

from __future__ import annotations

import os
import signal
import time

import pytest

from algos import RunError, UserError
from eval.launch import Job, Report, Workers


def who(report: Report) -> str:
    """A job that lasts until the other worker has one, too."""
    report(0.5, "half way")
    time.sleep(0.5)
    return str(os.getpid())


def fails(report: Report) -> str:
    raise RunError("as a job does")


def dies(report: Report) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def lost(cause: str) -> str:
    return f"lost: {cause}"


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


def test_one_of_either_needs_no_process() -> None:
    with Workers(2) as several, Workers(1) as one:
        for workers, jobs in ((several, [A]), (one, [A, B])):
            workers.expect(len(jobs))
            assert set(done(workers, *jobs)) == {str(os.getpid())}
            assert workers.idle == []


def test_one_that_dies_takes_its_own_job_alone() -> None:
    with Workers(2) as workers:
        ends = done(workers, Job("d", dies, lost), A, B, C)
        assert ends[0] == "lost: killed by signal 9"
        assert all(end.isdecimal() for end in ends[1:])
        for worker in workers.idle:
            worker.process.kill()
            worker.process.join()
        assert len(set(done(workers, A, B))) == 2


def test_what_a_job_raises_ends_the_others_and_the_next_call_has_workers() -> None:
    with Workers(2) as workers:
        with pytest.raises(RunError, match="as a job does"):
            workers.do([Job("f", fails, lost), A, B], Told())
        assert len(set(done(workers, A, B))) == 2


def test_those_who_still_load_do_not_hold_up_a_mistake() -> None:
    workers = Workers(2)
    workers.expect(2)
    processes = [worker.process for worker in workers.idle]
    with pytest.raises(UserError, match="a mistake"), workers:
        raise UserError("a mistake")
    assert [process.exitcode for process in processes] == [-signal.SIGTERM, -signal.SIGTERM]
