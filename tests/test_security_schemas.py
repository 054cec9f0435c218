"""A comparison's files with right checksums and wrong content: every command ends well or in one line, never in a traceback."""

from __future__ import annotations

import collections
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from forging import forge, forged_files
from small_world import SmallWorld, compared, sketch

import eval.comparison
import eval.drawing
import run_compare
from algos import UserError
from eval.process.workers import Workers
from eval.report.numbers.frames import evaluations
from eval.store import Store


@pytest.fixture(scope="module")
def tuned(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with every kind of file: tuned, with a frontier."""
    out = tmp_path_factory.mktemp("tuned") / "one"
    short = ("--seeds", "1", "--budget", "2iterations", "--eval.points", "1", "--frontier.samples", "8", "--frontier.prompts", "2",
             "--algos", "reinforce", "dpo", "--tune", "2", "--tune-seeds", "1")  # fmt: skip
    assert compared(small.arguments(out, *short)) == 0
    return out


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but not drawn, and what would be trained or sampled again is not."""

    def refused(*_: Any) -> None:
        raise UserError("something would be made again.")

    sketch(monkeypatch)
    monkeypatch.setattr(Workers, "do", refused)
    monkeypatch.setattr(eval.comparison, "evaluate_base", refused)
    monkeypatch.setattr(run_compare, "show_ends", lambda store, console: None)


def fault(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The command's status, and what is wrong with how it ended: anything but a result or one line of text."""
    try:
        status = run_compare.main(arguments)
    except Exception as error:
        return -1, f"{type(error).__name__}: {error}"
    out, said = capsys.readouterr()
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    well = (
        status in (0, 1, 2)
        and len(errors) == (status == 2)
        and errors == said.splitlines()[-1:][: len(errors)]
    )
    text = all(char == "\n" or char.isprintable() for char in out + said)
    return status, "" if well and text else f"status {status}, {out + said!r}"


def forgeries(
    folder: Path, small: SmallWorld, scratch: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> collections.Counter[str]:
    """So many comparisons forged in one place, every file in turn. Three of four are reported on, one is gone on with;
    of what is reported on every fourth has its report made, and of the others all that a report reads is read."""
    found, faults = collections.Counter[str](), list[str]()
    files = [file.relative_to(folder) for file in forged_files(folder)]
    drawn = eval.drawing.draw
    for number in range(count):
        out = scratch / f"forged-{number}"
        shutil.copytree(folder, out)
        what = forge(out, out / files[number % len(files)], random.Random(number))
        turn = (number + number // len(files)) % 16
        command = (
            ["--resume", str(out), "--cache", small.cache, "--workers", "1"]
            if turn % 4 == 3
            else ["report", str(out)]
        )
        with pytest.MonkeyPatch.context() as patch:
            for place in (eval.comparison, eval.drawing):
                patch.setattr(place, "draw", drawn if turn % 4 == turn // 4 else _read)
            status, wrong = fault(command, capsys)
        found[f"{command[0]} {status}"] += 1
        faults += [f"{number}, {command[0]}, {what}: {wrong}"] if wrong else []
        shutil.rmtree(out)
    assert not faults, "\n".join(faults)
    return found


def _read(store: Store) -> Path:
    """All that a report reads, without the report."""
    evaluations(store)
    _ = store.samples, store.events, store.pool, store.tuning, store.environment
    return store.path / "report.html"


@pytest.mark.parametrize("count", [40, pytest.param(80, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("quick")
def test_forgeries(
    tuned: Path, small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    found = forgeries(tuned, small, tmp_path, count, capsys)
    assert found["report 2"] + found["--resume 2"] >= 25 * count / 80
    assert found["report 0"] + found["--resume 0"] >= 8 * count / 80


@pytest.mark.faults
@pytest.mark.usefixtures("quick")
def test_a_thousand_forgeries(
    tuned: Path, small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = forgeries(tuned, small, tmp_path, 1000, capsys)
    with capsys.disabled():
        print(f"1000 of 1000 forgeries end in a report or one line: {dict(sorted(found.items()))}")
