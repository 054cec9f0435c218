"""Comparisons without a frontier, or with the judge's alone: switched off, a reward that failed, unscored samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_world import SmallWorld

from algos import RunError
from eval.process.workers import Workers
from eval.store import Store
from run_compare import main

SHORT = ("--budget", "1iterations", "--eval.points", "1", "--frontier.prompts", "2")
SOME_UNSCORED = """
def some(prompts, completions, **columns):
    return [None if text.split()[:1] == ["good"] else float(len(text)) for text in completions]

def length(prompts, completions, **columns):
    return [float(len(text)) for text in completions]
"""


@pytest.mark.usefixtures("sketched")
def test_it_can_be_switched_off(small: SmallWorld, tmp_path: Path) -> None:
    out = tmp_path / "off"
    arguments = small.arguments(out, "--frontier.samples", "0", "--algos", "reinforce", "--seeds", "1")
    assert main(arguments) == 0
    assert Store.open(out).pool is None
    assert "It was switched off" in (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("sketched")
def test_a_reward_that_fails_leaves_the_report(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(store: Store, workers: Workers, update: object) -> None:
        raise RunError("the reward gave up")

    out = tmp_path / "without"
    with monkeypatch.context() as failing:
        failing.setattr("eval.comparison.update_pool", fails)
        assert main(small.arguments(out, "--algos", "reinforce", "--seeds", "1", *SHORT)) == 0
    assert "no frontier: the reward gave up" in capsys.readouterr().err
    assert Store.open(out).environment["no_frontier"] == "the reward gave up"
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "is not known: the reward gave up. To try again: rlhf" in text
    assert main(["--resume", str(out), "--cache", small.cache, "--workers", "1"]) == 0
    assert Store.open(out).pool is not None
    assert "no_frontier" not in json.loads((out / "environment.json").read_text(encoding="utf-8"))
    assert "gave up" not in (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("sketched")
def test_unscored_samples_leave_the_judges_frontier(small: SmallWorld, tmp_path: Path) -> None:
    file, out = tmp_path / "own.py", tmp_path / "some"
    file.write_text(SOME_UNSCORED, encoding="utf-8")
    scored = ("--reward", f"{file}:some", "--judge", f"{file}:length", "--allow-unscored")
    assert main(small.arguments(out, "--algos", "reinforce", "--seeds", "1", *SHORT, *scored)) == 0
    store = Store.open(out)
    pool = store.pool
    assert pool is not None
    unscored = np.isnan(pool.rewards["proxy"])
    assert 0 < unscored.mean() < 1
    np.testing.assert_array_equal(pool.rewards["proxy"][~unscored], pool.rewards["judge"][~unscored])
    assert "no_frontier" not in store.environment
    results = store.results
    shares = results[results["metric"] == "unscored"]
    assert set(shares["arm"]) == {"base", "reinforce"}
    assert shares["value"].between(0, 1).all()
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "Against the frontier of judge reward" in text
    assert "Against the frontier of proxy reward" not in text
    assert "No frontier of the proxy reward" in text
