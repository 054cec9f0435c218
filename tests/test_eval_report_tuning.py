"""The report's section on tuning: what it says of numbers written out here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from report_world import world

from eval.report import page
from eval.report.document import Document, Section, Table, Text
from eval.report.figures import theme
from eval.report.numbers.frames import evaluations
from eval.report.sections import tuning

SPACE = {
    "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
    "ppo_epochs": {"low": 1, "high": 16, "log": False},
    "baseline": {"choices": ["ema", "leave_one_out", None]},
}


def tried(number: int, value: float | None, error: str = "") -> dict[str, Any]:
    settings = {"learning_rate": 1.23e-4 * number, "ppo_epochs": number, "baseline": "ema"}
    status = "failed" if value is None else "done"
    return {"number": number, "settings": settings, "status": status, "value": value, "error": error, "flops": 2e12, "seconds": 60.0}  # fmt: skip


def arm(values: list[float | None], chosen: int | None) -> dict[str, Any]:
    tries = [tried(n, value, "seed 1000000: no luck" * (value is None)) for n, value in enumerate(values, 1)]
    return {"algorithm": "ppo", "space": SPACE, "tries": tries, "chosen": chosen}


def told(arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "objective": "reward/judge", "prompts": 64, "seeds": [1_000_000], "budget": "5e11 FLOPs", "tries": 3, "arms": arms,
    }  # fmt: skip


def made(path: Path, arms: dict[str, dict[str, Any]]) -> Section:
    found = tuning.section(replace(world(path), tuning=told(arms)))
    assert found is not None
    return found


def cells(table: Table) -> list[list[str]]:
    return [[f"{cell.text} {cell.small}".strip() for cell in row] for row in table.rows]


def test_nothing_is_said_where_nothing_was_tuned(tmp_path: Path) -> None:
    assert tuning.section(world(tmp_path)) is None


def test_the_first_table_has_a_row_an_arm(tmp_path: Path) -> None:
    text, summary, *tries = made(
        tmp_path, {"ppo": arm([0.25, 0.75, 0.5], 2), "dpo": arm([None, 0.125, None], 2), "x": arm([None] * 3, None)}
    ).blocks  # fmt: skip
    assert isinstance(text, Text)
    assert "3 tries, each with a budget of 5×10¹¹ FLOPs a run and the training seed 1,000,000." in text.text
    assert "on 64 validation prompts" in text.text
    assert "Together the tries took 1.80×10¹³ FLOPs and 9 min 00 s of training" in text.text  # 9 tries
    assert isinstance(summary, Table)
    settings = "learning_rate 0.000246, ppo_epochs 2, baseline ema"
    assert cells(summary) == [
        ["ppo", "3", "0.250", "0.750 try 2", settings, "6.00×10¹²", "3 min 00 s"],
        ["dpo", "3 2 failed", "–", "0.125 try 2", settings, "6.00×10¹²", "3 min 00 s"],
        ["x", "3 3 failed", "–", "– all failed: as it began", "–", "6.00×10¹²", "3 min 00 s"],
    ]
    assert [block.heading for block in tries if isinstance(block, Table)] == ["ppo", "dpo", "x"]


def test_every_try_is_shown_and_the_chosen_one_marked(tmp_path: Path) -> None:
    *_, tries = made(tmp_path, {"ppo": arm([0.25, None, 0.5], 3)}).blocks
    assert isinstance(tries, Table)
    assert cells(tries) == [
        ["1", "0.000123", "1", "ema", "0.250", "done"],
        ["2", "0.000246", "2", "ema", "–", "seed 1000000: no luck"],
        ["3 chosen", "0.000369", "3", "ema", "0.500", "done"],
    ]
    assert [column.numeric for column in tries.columns] == [True, True, True, False, True, False]
    assert tries.caption == (
        "Searched: learning_rate: 1e-05 to 0.001 on a log scale; ppo_epochs: 1 to 16; baseline: ema, leave_one_out, None."
    )
    assert tries.folded == "All 3 tries"


def test_thirty_tries_of_three_arms_stay_folded_and_are_written_out(tmp_path: Path) -> None:
    comparison = world(tmp_path)
    section = made(
        tmp_path, {name: arm([n / 30 for n in range(30)], 30) for name in ("reinforce", "ppo", "dpo")}
    )
    look = theme.styles(evaluations(comparison).arms)
    document = Document("title", "", (section,))
    written = page.html(document, look, tmp_path)
    assert written.count("<summary>All 30 tries</summary>") == 3
    assert written.count("<small>chosen</small>") == 3
    lines = page.markdown(document).splitlines()
    assert len([line for line in lines if line.startswith("| ") and line.endswith("| done |")]) == 90
