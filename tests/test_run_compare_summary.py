"""The terminal's last words: a table of what was measured, the verdict, what failed, where the report is."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_world import with_ends
from small_world import SmallWorld

from algos import RunError
from eval.console import Console
from eval.terminal import show_ends
from run_compare import main


def heads_and_row(shown: str, arm: str) -> tuple[list[str], list[str]]:
    """The cells of the table's head and of an arm's row."""
    table = {
        cells[0]: cells for line in shown.splitlines() if (cells := re.split(r"\s{2,}", line.strip()))[1:]
    }
    return table["arm"], table[arm]


def test_the_table_has_the_metrics_that_were_measured(capsys: pytest.CaptureFixture[str]) -> None:
    made = with_ends({"reinforce": [0.6, 0.8, 0.7]})
    missing = made.results["metric"].isin(["reward/proxy", "cost/train_flops"])
    show_ends(replace(made, results=made.results[~missing]), Console())
    heads, (name, *cells) = heads_and_row(capsys.readouterr().out, "reinforce")
    assert heads == ["arm", "judge", "KL [nats]", "win rate", "time [s]"]
    assert (name, cells[0], cells[-1]) == ("reinforce", "0.700 ± 0.248", "27.00")


def test_costs_are_shown_without_their_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    show_ends(with_ends({"reinforce": [0.6, 0.8, 0.7]}), Console())
    heads, cells = heads_and_row(capsys.readouterr().out, "reinforce")
    assert heads == ["arm", "judge", "proxy", "KL [nats]", "win rate", "FLOPs", "time [s]"]
    assert ["±" in cell for cell in cells] == [False, True, True, True, True, False, False]


def test_what_to_know_is_said_beside_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    made = with_ends({"reinforce": [0.6, 0.8, 0.7]})
    show_ends(made, Console())
    verdict, _, warned = capsys.readouterr().out.partition("\nBefore relying on this:\n")
    assert "The one arm cannot be told apart from the untouched base" in verdict
    assert warned.startswith("- With 3 seeds an arm the intervals are wide")
    assert "- With 8 test prompts much depends on which were taken" in warned


@pytest.mark.usefixtures("sketched")
def test_no_table_where_every_run_failed_before_its_first_row(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RunError("no run begins")

    monkeypatch.setattr("eval.run.train", fails)
    out = tmp_path / "out"
    assert main(small.arguments(out, "--algos", "reinforce", "--frontier.samples", "0")) == 1
    said = capsys.readouterr()
    assert "At each arm's end" not in said.out
    assert "No run has reached its end" in said.out
    assert said.out.endswith(f"report: {out / 'report.html'}\n")
    assert "2 of 2 runs failed: reinforce-s0, reinforce-s1. The report says why. " in said.err
    assert f"Run them again with: rlhf-compare --resume {out}\n" in said.err
    trusting = tmp_path / "trusting"
    more = ("--algos", "reinforce", "--frontier.samples", "0", "--trust-remote-code")
    assert main(small.arguments(trusting, *more)) == 1
    again = f"Run them again with: rlhf-compare --resume {trusting} --trust-remote-code\n"
    assert again in capsys.readouterr().err
    assert "no run begins" in (out / "report.md").read_text(encoding="utf-8")
