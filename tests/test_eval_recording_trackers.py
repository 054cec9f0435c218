"""Trackers: what they are told, that their troubles are not the run's, and TensorBoard's own files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from algos import UserError
from eval.recording import trackers
from eval.recording.trackers import Trackers, require_trackers


class Fake:
    """Remembers what it was told; raises where it is told to."""

    def __init__(self, fails_at: str = "") -> None:
        self.told: list[Any] = []
        self.fails_at = fails_at

    def _tell(self, what: str, *values: Any) -> None:
        self.told.append((what, *values))
        if what == self.fails_at:
            raise ConnectionError("no \x1b[2J server")

    def start(self) -> None:
        self._tell("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._tell("settings", values)

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self._tell("log", values, step)

    def finish(self) -> None:
        self._tell("finish")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Fake]:
    def put(name: str = "wandb", fails_at: str = "") -> Fake:
        made = Fake(fails_at)
        monkeypatch.setitem(trackers._MAKERS, name, lambda folder, run, iteration: made)
        return made

    return put


def test_a_run_is_told_from_its_settings_to_its_end(tmp_path: Path, fake: Callable[..., Fake]) -> None:
    told = [fake("wandb"), fake("tensorboard")]
    with Trackers(["wandb", "tensorboard"], tmp_path, "ppo-s0") as tracked:
        tracked.start({"ppo": {"beta": 0.1, "betas": (0.9, 0.95), "clip": None}, "arm": "ppo"})
        tracked.log({"kl/train": 0.5, "loss": math.nan, "x": math.inf, "none": None}, 3)
    expected = [
        ("start",),
        ("settings", {"ppo.beta": 0.1, "ppo.betas": "(0.9, 0.95)", "ppo.clip": "None", "arm": "ppo"}),
        ("log", {"kl/train": 0.5}, 3),
        ("finish",),
    ]
    assert [tracker.told for tracker in told] == [expected, expected]


def test_a_run_that_goes_on_does_not_tell_its_settings_again(
    tmp_path: Path, fake: Callable[..., Fake]
) -> None:
    made = fake()
    with Trackers(["wandb"], tmp_path, "ppo-s0") as tracked:
        tracked.start({"arm": "ppo"}, iteration=7)
    assert made.told == [("start",), ("finish",)]


def test_a_run_that_fails_is_closed_too(tmp_path: Path, fake: Callable[..., Fake]) -> None:
    made = fake()

    def run() -> None:
        with Trackers(["wandb"], tmp_path, "ppo-s0") as tracked:
            tracked.start({})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert made.told[-1] == ("finish",)


@pytest.mark.parametrize("moment", ["start", "settings", "log", "finish"])
def test_a_tracker_that_fails_costs_a_line_and_no_more(
    tmp_path: Path, fake: Callable[..., Fake], capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    broken, whole = fake("wandb", moment), fake("tensorboard")
    with Trackers(["wandb", "tensorboard"], tmp_path, "ppo-s0") as tracked:
        tracked.start({})
        tracked.log({"a": 1.0}, 1)
        tracked.log({"a": 2.0}, 2)
    assert [entry[0] for entry in broken.told].count(moment) == 1
    assert [entry[0] for entry in whole.told] == ["start", "settings", "log", "log", "finish"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ppo-s0 goes on without wandb, which failed: no ")
    assert "\x1b" not in line


def test_without_trackers_nothing_happens(tmp_path: Path) -> None:
    with Trackers([], tmp_path, "ppo-s0") as tracked:
        tracked.start({"a": 1})
        tracked.log({"a": 1.0}, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(trackers, "distribution", none)
    require_trackers([])
    (tmp_path / "wandb").mkdir()  # as Weights & Biases leaves it behind: importable, yet no package
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"--log-with wandb needs .* not installed\. Install it: pip install wandb"
    ):
        require_trackers(["wandb"])


def test_weights_and_biases_stays_on_this_machine_unless_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import accelerate.tracking

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        accelerate.tracking,
        "WandBTracker",
        lambda project, **options: asked.append({"project": project, **options}),
    )
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ERROR_REPORTING", "WANDB_SILENT", "WANDB_CONSOLE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    trackers._wandb(tmp_path, "ppo-s0", 0)
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    monkeypatch.setenv("WANDB_MODE", "online")
    trackers._wandb(tmp_path, "ppo-s0", 0)
    trackers._wandb(tmp_path, "ppo-s1", 0)
    assert [options["mode"] for options in asked] == ["offline", "online", "online"]
    assert {options["group"] for options in asked} == {tmp_path.name}
    assert [options["name"] for options in asked] == ["ppo-s0", "ppo-s0", "ppo-s1"]
    assert len({options["id"] for options in asked}) == 2  # the same run again is the same run there


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(scalar.step, round(scalar.value, 4)) for scalar in events.Scalars(name)]


def test_tensorboard_shows_each_iteration_once(tmp_path: Path) -> None:
    """Whether a run began anew, or went on from a checkpoint before what was logged last."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    for iterations, after in ((range(1, 4), 0), (range(1, 6), 0), (range(4, 7), 3)):
        with Trackers(["tensorboard"], tmp_path, "ppo-s0") as tracked:
            tracked.start({"beta": 0.1}, after)
            for iteration in iterations:
                tracked.log({"kl/train": iteration / 2 + after}, iteration)
    expected = [(1, 0.5), (2, 1.0), (3, 1.5), (4, 5.0), (5, 5.5), (6, 6.0)]
    assert scalars(tmp_path / "tensorboard" / "ppo-s0", "kl/train") == expected
    assert len(list((tmp_path / "tensorboard" / "ppo-s0").glob("*/hparams.yml"))) == 1


def test_weights_and_biases_writes_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Trackers(["wandb"], tmp_path, "ppo-s0") as tracked:
        tracked.start({"beta": 0.1})
        tracked.log({"kl/train": 0.5}, 1)
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
