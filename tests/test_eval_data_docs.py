"""docs/data.md says what the code does: its example, and every reason that a row can have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
SOURCES = [
    *sorted((ROOT / "eval" / "data").glob("*.py")),
    *sorted((ROOT / "eval" / "tasks" / "custom").glob("*.py")),
    *(ROOT / "algos" / "engine" / "batches" / f"{name}.py" for name in ("pairs", "prompts")),
]
CODE = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)


def documented(head: str) -> set[str]:
    """The names in the first column of the table that begins with `head`."""
    (table,) = re.findall(rf"^\| {head} \|.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return {name for row in table.splitlines()[1:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_every_reason_of_a_bad_row_is_documented() -> None:
    raised = set(re.findall(r'RowError\(\s*"([^"]+)"', CODE))
    assert raised == documented("reason") | {"refused by the model or its chat template"}


@pytest.mark.parametrize("head", ["dropped", "kept, but noted"])
def test_every_documented_reason_is_one_that_the_code_gives(head: str) -> None:
    assert {name for name in documented(head) if f'"{name}"' not in CODE} == set()


def test_every_account_given_in_the_code_is_documented() -> None:
    given = set(re.findall(r'\.(?:drop|note)\("([^"]+)"', CODE))
    own = {"identical, empty or unscored"}  # of pairs that no file holds
    assert given - own <= documented("dropped") | documented("kept, but noted")


def test_the_example_prints_what_the_page_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = re.findall(r"```(?:python)?\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(code, {})
    assert capsys.readouterr().out == printed
