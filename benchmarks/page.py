"""Tables as Markdown, and their places on a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float | np.floating) -> str:
    """0.9512 → "95.1%"."""
    return f"{100 * share:.1f}%"


def rate(hits: ArrayLike) -> str:
    """The share of True as a percentage."""
    return percent(np.mean(np.asarray(hits)))


def signed(value: float) -> str:
    """-2.5 → "−2.50"."""
    return f"{value:.2f}".replace("-", "−")


def filled(page: str, name: str, table: str) -> str:
    """The page with a table between the markers of its name. KeyError where there are none."""
    found = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
    if not found.search(page):
        raise KeyError(name)
    return found.sub(lambda match: f"{match[1]}\n{table}\n\n{match[2]}", page)
