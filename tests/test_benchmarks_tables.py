"""benchmarks/trainers: what was measured as rows that are kept, as tables, and as ratios beside their goals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import records
from benchmarks.trainers.__main__ import pages
from benchmarks.trainers.gate import STEP
from benchmarks.trainers.ours import ALGORITHMS
from benchmarks.trainers.phases import OLD, REFERENCE, SAMPLING, UPDATE
from benchmarks.trainers.ratios import ratio_tables
from benchmarks.trainers.records import Contestant, Phase
from benchmarks.trainers.tables import TITLES, contest_table, phase_table

CONDITIONS: dict[str, Any] = {
    "device": "a machine", "versions": "torch 1", "threads": 2, "dtype": "fp32", "size": "tiny", "algorithm": "dpo",
}  # fmt: skip


def contestant(part: str, seconds: list[float], peak: float, **changes: Any) -> Contestant:
    return Contestant(
        **CONDITIONS | {"part": part, "seconds": seconds, "start_mib": 100.0, "peak_mib": peak} | changes
    )


def test_ratios_are_of_medians_with_the_range_of_neighbours() -> None:
    rows = [contestant("ours", [1.0, 2.0, 4.0], 300.0), contestant("TRL", [3.0, 5.0, 16.0], 600.0)]
    (line,) = [
        line for line in contest_table(rows, [phase(UPDATE, [0.5])]).splitlines() if line.startswith("| tiny")
    ]
    assert "| 2 (1 to 4) | 5 (3 to 16) | **2.50** (2.50 to 4.00) | 16.7 |" in line
    assert line.endswith("| 300 (before: 100) | 600 (before: 100) | 0.50 |")


def test_what_was_not_measured_is_left_blank_and_conditions_are_kept_apart() -> None:
    rows = [contestant("ours", [1.0], 300.0), contestant("ours", [1.0], 300.0, dtype="bf16", threads=1)]
    table = contest_table(rows, [])
    assert "| tiny | DPO | 1 | – | – | – | 300 (before: 100) | – | – |" in table
    assert table.index("**a machine; 1 thread; bf16.** torch 1.") < table.index(
        "**a machine; 2 threads; fp32.**"
    )


def phase(part: str, seconds: list[float], flops: float = 3e9, **changes: Any) -> Phase:
    """With a floor of 0.3 s."""
    return Phase(
        **CONDITIONS | {"part": part, "seconds": seconds} | changes, flops=flops, bytes=flops / 3,
        flops_per_second=1e10, bytes_per_second=1e10,
    )  # fmt: skip


def test_phases_stand_beside_their_floors() -> None:
    table = phase_table([phase(UPDATE, [0.5, 0.4]), phase(STEP, [0.6, 0.6], flops=0.0)])
    assert "| tiny | DPO | update | 0.45 | 3 | 0.3 | FLOPs | 67% |" in table
    assert "| tiny | DPO | all else | 0.15 | – | – | – | – |" in table


def test_no_ratio_can_be_higher_than_that_to_the_floors() -> None:
    """What is done within another phase is in the floor of none."""
    rows = [contestant("ours", [1.0], 300.0), contestant("TRL", [3.0], 600.0)]
    phases = [phase(REFERENCE, [0.4]), phase(UPDATE, [0.5]), phase(OLD, [0.0])]
    assert "| **3.00** (3.00 to 3.00) | 5.0 |" in contest_table(rows, phases)


def test_rows_are_kept_until_they_are_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Contestant, "FILE", tmp_path / "measured.csv")
    Contestant.keep([contestant("ours", [1.0, 2.5], 300.0), contestant("TRL", [3.0], 600.0)])
    Contestant.keep([contestant("ours", [0.5], 200.0)])
    assert Contestant.read() == [contestant("ours", [0.5], 200.0), contestant("TRL", [3.0], 600.0)]


def test_the_pages_have_the_tables_of_the_files() -> None:
    for page, text in pages(Contestant.read(), Phase.read()).items():
        assert page.read_text(encoding="utf-8") == text, page.name
    assert set(TITLES) == set(ALGORITHMS)


def test_what_meets_its_goal_is_bold() -> None:
    """DPO at small: 2.2 times as fast, 0.6 of the memory, updates at 70% of the machine's rate."""
    small = {"size": "small"}
    rows = [contestant("ours", [1.0], 300.0, **small), contestant("TRL", [2.196], 504.0, **small)]
    update = phase(UPDATE, [0.43], **small)
    table = ratio_tables(rows, [update, phase(UPDATE, [0.1]), phase(SAMPLING, [0.1], **small)])
    goal, line = table.splitlines()[-2:]
    assert goal == "| *goal* | ≥ 2.2 | ≥ 2.2 | ≥ 3 | ≥ 2 | ≤ 0.6 | ≥ 70% |"
    assert line == "| a machine, fp32 | **2.20** | – | – | – | **0.60** | **70%** |"
    slower = [rows[0], contestant("TRL", [2.19], 490.0, **small)]
    assert ratio_tables(slower, []).splitlines()[-1].endswith(", fp32 | 2.19 | – | – | – | 0.61 | – |")


def test_a_size_without_goals_has_no_line_of_them() -> None:
    ending = {"size": "small-ending"}
    rows = [
        contestant("ours", [1.0], 300.0, **ending), contestant("TRL", [9.0], 600.0, **ending),
        contestant("ours", [1.0], 240.0, **ending, algorithm="ppo"), contestant("TRL", [9.0], 600.0, **ending, algorithm="ppo"),
    ]  # fmt: skip
    table = ratio_tables(rows, [])
    assert "`tiny`" not in table
    assert "goal" not in table
    assert table.splitlines()[-1] == "| a machine, fp32 | 9.00 | – | 9.00 | – | 0.40 to 0.50 | – |"


@pytest.mark.parametrize(
    ("vendor", "named"), [("GenuineIntel", "Some Name, family 6, model 207, with"), ("AuthenticAMD", "Some Name, family 6, with")]
)  # fmt: skip
def test_intels_processors_are_told_apart_by_their_model(
    vendor: str, named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = {"vendor_id": vendor, "cpu family": "6", "model": "207", "model name": "Some Name"}
    (tmp_path / "cpuinfo").write_text("".join(f"{name}\t: {value}\n" for name, value in told.items()))
    monkeypatch.setattr(records, "Path", lambda _: tmp_path / "cpuinfo")
    assert records.processor().startswith(named)
