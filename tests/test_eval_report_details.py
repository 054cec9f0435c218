"""The section on runs that failed or diverged: each with its last evaluation and the reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from report_world import World, world

from eval.report.details import runs
from eval.report.document import Table, Text
from eval.report.frames import evaluations


def cells(made: World) -> list[list[str]]:
    (block,) = runs(evaluations(made)).blocks
    assert isinstance(block, Table)
    return [[getattr(cell, "text", cell) for cell in row] for row in block.rows]


def test_a_failed_run_shows_where_it_was_good_last() -> None:
    made = world(Path("x"), {"ppo": "ppo", "dpo": "dpo"}, 2)
    frame = made.runs.astype({"error": object})
    failed = (frame["arm"] == "ppo") & (frame["seed"] == 1)
    frame.loc[failed, ["status", "error", "fraction"]] = ["failed", "the loss is nan at update 7", 0.5]
    diverged = (frame["arm"] == "dpo") & (frame["seed"] == 0)
    frame["diverged"] = ""
    frame.loc[diverged, "diverged"] = "iteration 3 (update 3): its KL to the base is 7.1 nats a token"
    by_arm = {row[0]: row for row in cells(dataclasses.replace(made, runs=frame))}
    assert by_arm["ppo"][:4] == ["ppo", "1", "failed", "50%"]
    assert by_arm["dpo"][:4] == ["dpo", "0", "done, diverged", "100%"]
    assert by_arm["ppo"][4].startswith("point ")
    assert by_arm["ppo"][5] == "the loss is nan at update 7"
    assert "7.1 nats a token" in by_arm["dpo"][5]


def test_where_all_is_well_a_sentence_says_so() -> None:
    (block,) = runs(evaluations(world(Path("x"), {"ppo": "ppo"}, 2))).blocks
    assert isinstance(block, Text)
    assert "None: all 2 runs" in block.text
