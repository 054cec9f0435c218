"""The pages of docs/ as tests read them: sections, tables, and what is in their cells."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def page(name: str) -> str:
    """The text of a page."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """From a heading to the next one of its level or above."""
    (start,) = re.finditer(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    rest = text[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def table_rows(text: str, first: str) -> list[list[str]]:
    """The cells of the tables whose head begins with the column `first`."""
    rows: list[list[str]] = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *body = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
        if head[0] == first:
            rows += body
    return rows


def measured(name: str) -> list[list[str]]:
    """The rows of a table of docs/statistics.md without their head."""
    (block,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- end {name} -->", page("statistics.md"), re.DOTALL)
    (first,) = re.findall(r"\A\n\|(.*?)\|", block)
    return table_rows(block, first.strip())


def shares(row: list[str]) -> list[float]:
    """The percentages of a row."""
    return [float(cell.removesuffix("%")) for cell in row if cell.endswith("%")]
