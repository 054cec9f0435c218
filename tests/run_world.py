"""What the tests of the command line share: what a comparison came to, how one is stopped, what is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from small_world import SmallWorld

from eval.store import Store
from run_compare import parse

MEASURED = ("seconds", "memory")


def unmeasured(folder: Path) -> pd.DataFrame:
    """The results without what is measured: the same on every machine state."""
    frame = Store.open(folder).results.drop(columns="seconds")
    return frame[~frame["metric"].str.contains("|".join(MEASURED))].reset_index(drop=True)


def weights(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.glob("runs/*/policy/*.safetensors"))
    }


def one_arm(small: SmallWorld, out: Path) -> list[str]:
    """A comparison that was made of one arm, whose prompts are gone; the command that adds one which needs them."""
    asked = parse([*small.arguments(out), "--algos", "reinforce"]).experiment
    Store.create(out, replace(asked, prompts=str(out / "gone.jsonl")))
    return ["--resume", str(out), "--algos", "+dpo", "--cache", small.cache, "--workers", "1"]


def stop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a comparison is interrupted before anything is prepared."""

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eval.comparison.materials_of", stopped)


def failing_before_the_runs(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("eval.comparison.materials_of", fails)


def refusal(shown: str) -> str:
    (line,) = [line for line in shown.splitlines() if line.startswith("error: ")]
    return line
