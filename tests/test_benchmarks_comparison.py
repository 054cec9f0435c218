"""benchmarks/comparison: directories that the report reads as real ones, and tables of what was timed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.comparison import commands, synthetic
from benchmarks.comparison.__main__ import PAGE
from benchmarks.comparison.commands import ARM, HELP, NO_FRONTIER, ROOT, SEED, WHOLE
from benchmarks.comparison.records import Timed
from benchmarks.comparison.tables import TABLES
from benchmarks.page import filled
from eval.glossary import METRICS, TRAINING
from eval.report.numbers.tables import summary_text
from eval.store import Store


def timed(name: str, seconds: float, workers: int = 1, table: str = "command") -> Timed:
    return Timed(
        "a machine",
        "torch 1",
        [seconds, seconds + 2, seconds + 1],
        table,
        name,
        workers,
        [300.0, 301.0, 310.0],
    )


def test_a_synthetic_comparison_is_whole_and_has_so_many_rows(tmp_path: Path) -> None:
    synthetic.comparison(tmp_path / "made", 600)
    store = Store.reading(tmp_path / "made")
    assert len(store.events) == 600
    assert set(store.runs["status"]) == {"done"}
    assert set(synthetic.EVALUATED) <= METRICS.keys()
    assert set(synthetic.LOGGED) <= TRAINING.keys()
    assert not store.results["value"].isna().any()
    assert list(summary_text(store, ("reward/judge", "kl/sequence")).index[-3:]) == [
        "reinforce",
        "ppo",
        "dpo",
    ]


def test_drawing_again_loads_no_code_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer to load than most reports take to draw."""
    monkeypatch.setattr(synthetic, "SEEDS", 2)
    synthetic.comparison(tmp_path / "made", 60)
    code = (
        # Figures are made and not drawn, which would take most of the time.
        "import sys; from eval.report.figures import theme; "
        "theme.save = lambda _, folder, stem: (folder / f'{stem}.svg').write_text('<svg/>'); "
        "from run_compare import main; status = main(['report', sys.argv[1]]); "
        "print(status, sorted({'transformers.modeling_utils', 'peft', 'trl'} & sys.modules.keys()))"
    )
    drawn = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "made"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert drawn.stdout.splitlines() == [str(tmp_path / "made" / "report.html"), "0 []"]


def test_a_seed_and_an_arm_cost_what_they_add() -> None:
    rows = [timed(WHOLE, 120), timed(NO_FRONTIER, 90), timed(SEED, 115), timed(ARM, 110), timed(HELP, 2)]
    rows += [timed(NO_FRONTIER, 50, workers=2), timed(SEED, 63, workers=2)]
    lines = TABLES["command"](rows).splitlines()
    assert "| the whole command | 121 (120 to 122) | – | 301 | – |" in lines
    assert "| without the frontier | 91 (90 to 92) | 51 (50 to 52) | 301 | 301 |" in lines
    assert "| one more seed costs | 25.00 | 13.00 |  |  |" in lines
    assert "| one more arm costs | 20.00 | – |  |  |" in lines


def test_reports_stand_in_the_order_of_their_rows() -> None:
    table = TABLES["report"]([timed("100000", 5, table="report"), timed("10000", 4, table="report")])
    assert table.index("| 10,000 | 5 (4 to 6) | 301 |") < table.index("| 100,000 | 6 (5 to 7) | 301 |")


MEASURES = """
import sys
from pathlib import Path
from benchmarks.comparison.commands import _once
for code in ("pass", "import time; x = bytearray(300 << 20); time.sleep(0.2)"):
    print(*_once([sys.executable, "-c", code], Path(sys.argv[1])))
"""


def test_memory_is_that_of_the_command_not_of_the_one_who_measures(tmp_path: Path) -> None:
    """In a process of its own: this one is large."""
    told = subprocess.run(
        [sys.executable, "-c", MEASURES, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (_, idle), (seconds, busy) = [map(float, line.split()) for line in told.stdout.splitlines()]
    assert idle < 150
    assert 300 < busy < 450
    assert 0.2 < seconds < 20


def test_a_command_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        commands._once([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path)


def test_the_page_has_the_tables_of_the_file() -> None:
    page, rows = PAGE.read_text(encoding="utf-8"), Timed.read()
    for name, table in TABLES.items():
        assert filled(page, name, table([row for row in rows if row.table == name])) == page
