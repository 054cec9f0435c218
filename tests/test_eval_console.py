"""What is said while runs are made."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from eval import console as module
from eval.console import Console
from eval.process.jobs import Job


def job(name: str) -> Job:
    return Job(name, lambda _: "done", lambda _: "failed")


def test_a_log_says_how_long_the_rest_will_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs at a time, of four that take 100 s each: at the first end another is half done."""
    now = 0.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    console = Console()
    with console.runs(4) as progress:
        first, second, third, fourth = (job(name) for name in ("ppo-s0", "dpo-s0", "ppo-s1", "dpo-s1"))
        progress.update(first, 0.0, "")
        now = 50.0
        progress.update(second, 0.0, "")
        now = 100.0
        progress.update(second, 0.5, "")
        progress.update(first, 1.0, "done")
        progress.update(third, 0.0, "")
        now = 200.0
        progress.update(second, 1.0, "failed")
        progress.update(third, 1.0, "done")
        progress.update(fourth, 0.0, "")
        progress.update(fourth, 1.0, "done")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("] ")[2] for line in lines] == [
        "run 1 of 4, ppo-s0: done in 100.0 s; about 2 min 47 s left",  # 100 s for 1.5 runs, 2.5 to go
        "run 2 of 4, dpo-s0: failed in 150.0 s; about 3 min 20 s left",
        "run 3 of 4, ppo-s1: done in 100.0 s; about 1 min 07 s left",
        "run 4 of 4, dpo-s1: done in 0.0 s",
    ]
