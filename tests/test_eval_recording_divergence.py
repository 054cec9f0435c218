"""When a run has diverged, and what its status says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from faults import first, start
from small_world import SmallWorld, compared

from eval.metrics import Evaluated, Evaluator
from eval.recording.divergence import EVALUATION, TRAINING, divergence
from eval.store import Store

START = {"kl/sequence": 0.0, "length": 10.0, "entropy": 2.0}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"kl/sequence": 49.0, "length": 10.0, "entropy": 0.1},
            "",
        ),  # strong over-optimization is no divergence
        ({"kl/sequence": 51.0, "length": 10.0, "entropy": 2.0}, "5.1 nats a token"),
        ({"kl/sequence": 5.1, "length": 0.2, "entropy": 2.0}, "5.1 nats a token"),
        ({"kl/sequence": 9.0, "length": 10.0, "entropy": 0.021}, ""),
        ({"kl/sequence": 9.0, "length": 10.0, "entropy": 0.019}, "entropy has fallen to 0.019"),
        ({"length": 10.0}, ""),
        ({"kl/sequence": 9.0, "length": 10.0}, ""),  # an iteration without an update
    ],
)
def test_signs_of_divergence(row: dict[str, float], reason: str) -> None:
    found = divergence(row, START, EVALUATION)
    assert reason in found
    assert bool(reason) == bool(found)


def test_training_rows_of_recorded_pairs_tell_nothing() -> None:
    row = {"length/train": 10.0, "entropy/train": 0.0}
    assert divergence(row, {"length/train": 10.0, "entropy/train": 2.0}, TRAINING) == ""


def test_a_run_that_diverges_goes_on_and_says_when(small: SmallWorld, tmp_path: Path) -> None:
    """A learning rate that makes the policy say one thing for ever, beside one that does not."""
    settings = tmp_path / "settings.yaml"
    settings.write_text("variants: {wild: {algorithm: reinforce, beta: 0.0, learning_rate: 1.0}}\n")
    out = tmp_path / "out"
    assert start(first(small, out, "--config", str(settings), "--algos", "reinforce", "wild")).wait() == 0
    runs = Store.open(out).runs.set_index("arm")
    assert list(runs["status"]) == ["done", "done"]
    assert runs.loc["reinforce", "diverged"] == ""
    told = runs.loc["wild", "diverged"]
    assert told.startswith("iteration ")
    assert "update" in told
    assert "the last evaluation before it is point " in told


def test_the_length_is_that_of_the_samples_that_kl_is_of(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is judged may be decoded otherwise, and be much shorter."""
    seen: list[tuple[float, bool]] = []
    evaluate = Evaluator.__call__

    def watched(evaluator: Evaluator) -> Evaluated:
        found = evaluate(evaluator)
        return replace(
            found, metrics=found.metrics | {"length": 1.0, "kl/sequence": 4.9 * found.plain_length}
        )

    def noting(row: dict[str, float], start: dict[str, float], names: tuple[str, str, str]) -> str:
        reason = divergence(row, start, names)
        if names == EVALUATION:
            seen.append((row["length"], reason != ""))
        return reason

    monkeypatch.setattr(Evaluator, "__call__", watched)
    monkeypatch.setattr("eval.recording.recorder.divergence", noting)
    out = tmp_path / "out"
    assert compared(first(small, out, "--algos", "reinforce", "--eval.decoding", "greedy")) == 0
    assert [diverged for _, diverged in seen] == [False, False]
    assert min(length for length, _ in seen) > 1
    rows = Store.open(out).run("reinforce", 0).read("rows")
    assert {row["metrics"]["length"] for row in rows} == {1.0}
