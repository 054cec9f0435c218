"""What is recorded of the code that ran: its commit, and whether it had been changed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from eval.process import measure

AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str) -> str:
    made = subprocess.run(
        ["git", "-C", str(folder), *AUTHOR, *arguments], check=True, capture_output=True, text=True
    )
    return made.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Code and a kept report, committed; what is asked of the commit is asked in its folder of code."""
    for file in ("eval/run.py", "reports/example/report.md", "README.md"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("one", encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    monkeypatch.setattr(measure, "__file__", str(tmp_path / "eval" / "measure.py"))
    return tmp_path


def recorded() -> str:
    return str(measure.environment("command", 1, 1)["commit"])


def test_code_as_it_was_committed_has_no_plus(checkout: Path) -> None:
    assert recorded() == git(checkout, "rev-parse", "--short=12", "HEAD")


def test_removing_the_kept_report_changes_no_code(checkout: Path) -> None:
    """As `make example` does before it begins."""
    (checkout / "reports" / "example" / "report.md").unlink()
    assert recorded() == git(checkout, "rev-parse", "--short=12", "HEAD")


@pytest.mark.parametrize("file", ["eval/run.py", "README.md"])
def test_changed_files_elsewhere_are_told_by_a_plus(checkout: Path, file: str) -> None:
    (checkout / file).write_text("two", encoding="utf-8")
    assert recorded() == git(checkout, "rev-parse", "--short=12", "HEAD") + "+"


def test_outside_a_checkout_no_commit_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "__file__", str(tmp_path / "measure.py"))
    assert recorded() == ""
