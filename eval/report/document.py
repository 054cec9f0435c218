"""The report as data: sections of blocks, in plain text. Two templates render it, each escaping every string."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Text:
    """A paragraph; with a `label`, a set-off note that begins with it."""

    kind: ClassVar[str] = "text"
    text: str
    label: str = ""


@dataclass(frozen=True)
class Bullets:
    kind: ClassVar[str] = "bullets"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """A table's column: its head, the unit below it, and whether it holds numbers (set to the right)."""

    label: str
    unit: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """What a cell says, a smaller line below it, and the arm whose colour goes before it."""

    text: str
    small: str = ""
    arm: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells; with a `folded` line, opened by clicking on it."""

    kind: ClassVar[str] = "table"
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    heading: str = ""
    folded: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure under a heading, if it has one, with what to see in it and how it was computed unless the text before it
    says so; `stem` names its files."""

    kind: ClassVar[str] = "picture"
    stem: str
    figure: Figure
    caption: str
    alternative: str
    heading: str = ""


@dataclass(frozen=True)
class Code:
    """Something to copy; with a `summary` it is folded away under it."""

    kind: ClassVar[str] = "code"
    text: str
    language: str = ""
    summary: str = ""


@dataclass(frozen=True)
class Answer:
    """One response to a prompt: whose, its scores in words, and what it wrote; with its `seed` where that is told."""

    arm: str
    scores: str
    text: str
    best: bool = False
    seed: str = ""


@dataclass(frozen=True)
class Answers:
    kind: ClassVar[str] = "answers"
    prompt: str
    answers: tuple[Answer, ...]


Block = Text | Bullets | Table | Picture | Code | Answers


@dataclass(frozen=True)
class Section:
    """One entry of the table of contents; `anchor` is made of lower-case letters and dashes."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]

    @property
    def pictures(self) -> list[Picture]:
        return [block for block in self.blocks if isinstance(block, Picture)]


@dataclass(frozen=True)
class Document:
    title: str
    subtitle: str
    sections: tuple[Section, ...]


Heads = list[Column | str]
Row = list[Cell | str]


def table(
    heads: Sequence[Column | str],
    rows: Sequence[Sequence[Cell | str]],
    caption: str = "",
    heading: str = "",
    folded: str = "",
) -> Table:
    """A table from plain strings where nothing more is needed; a plain head is a column of text."""
    columns = tuple(Column(head, numeric=False) if isinstance(head, str) else head for head in heads)
    cells = tuple(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in row) for row in rows)
    return Table(columns, cells, caption, heading, folded)
