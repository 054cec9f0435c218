"""When a run's state is saved: as often as asked, never at the cost of the run."""

from __future__ import annotations

from typing import Any

import pytest

from algos.engine.state import TrainState
from eval.directory.runs import Run
from eval.recording.checkpoints import MAX_SHARE, Checkpoints


class Clock:
    """A clock that stands until it is told; saving takes `cost` seconds of it."""

    def __init__(self, cost: float) -> None:
        self.now, self.cost = 0.0, cost


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Clock:
    clock = Clock(request.param)
    monkeypatch.setattr("eval.recording.checkpoints.time.monotonic", lambda: clock.now)
    return clock


class Saved:
    """Stands for a state and a run."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.notes, self.checkpoints = clock, {}, None

    def mark(self) -> dict[str, Any]:
        return {}

    def save(self, folder: Any) -> None:
        self.clock.now += self.clock.cost


def saves(clock: Clock, every: float, seconds: int) -> int:
    """How often a run of so many one-second iterations is saved."""
    stand_in: Any = Saved(clock)
    run: Run = stand_in
    state: TrainState = stand_in
    checkpoints, count = Checkpoints(run, every, last=clock.now), 0
    for _ in range(seconds):
        clock.now += 1
        if checkpoints.due:
            checkpoints.save(state)
            count += 1
    return count


@pytest.mark.parametrize("clock", [0.1], indirect=True)
def test_a_run_shorter_than_the_pause_is_never_saved(clock: Clock) -> None:
    assert saves(clock, 60, 59) == 0


@pytest.mark.parametrize("clock", [0.1], indirect=True)
def test_every_so_many_seconds(clock: Clock) -> None:
    assert saves(clock, 60, 600) == 9  # what saving takes is time too


@pytest.mark.parametrize("clock", [0.0], indirect=True)
def test_zero_is_after_every_iteration(clock: Clock) -> None:
    assert saves(clock, 0, 10) == 10


@pytest.mark.parametrize("clock", [30.0], indirect=True)
def test_where_saving_takes_long_it_is_done_more_seldom(clock: Clock) -> None:
    """A model of many gigabytes: half a minute a save."""
    count = saves(clock, 60, 20_000)
    assert count == 14
    assert count * 30 <= MAX_SHARE * clock.now * 1.1
