"""A report of one text, and what a browser, a spreadsheet and a terminal would make of an output."""

from __future__ import annotations

import unicodedata
from html.parser import HTMLParser
from typing import Any

from eval.report import document as parts

FORMULA = tuple("=+-@＝＋－＠﹦﹢﹣﹫\t\r")
"""What a cell begins with that a spreadsheet computes."""


def document(text: str) -> parts.Document:
    """A report with `text` in every place that a string can have."""
    cells = (parts.Cell(text, text), parts.Cell(text, text, arm=text))
    columns = (parts.Column(text, text), parts.Column(text, text, numeric=False))
    answers = (parts.Answer(text, text, text, best=True), parts.Answer(text, text, ""))
    blocks = (
        parts.Text(text),
        parts.Text(text, label=text),
        parts.Bullets((text, text)),
        parts.Table(columns, (cells, cells), text, text, text),
        parts.Picture("seeds", None, text, text, text),  # type: ignore[arg-type]
        parts.Code(text, "sh"),
        parts.Code(text, "yaml", text),
        parts.Answers(text, answers),
    )
    return parts.Document(text, text, (parts.Section("a", text, blocks), parts.Section("b", text, blocks)))


class Elements(HTMLParser):
    """What a browser would make of a page; what its readers see (texts, and two attributes) apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[Any] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    @property
    def opened(self) -> list[tuple[str, dict[str, str]]]:
        """Every element with its attributes."""
        return [
            (tag, {name: value or "" for name, value in found})
            for tag, found in self.tags
            if isinstance(found, list)
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        shown = ("alt", "aria-label")
        self.tags.append((tag, [(name, "" if name in shown else value) for name, value in attrs]))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(("/", tag))

    def handle_decl(self, decl: str) -> None:
        self.tags.append(("!", decl))

    def unknown_decl(self, data: str) -> None:
        self.tags.append(("<![", data))

    def handle_comment(self, data: str) -> None:
        self.tags.append(("<!--", data))

    def handle_pi(self, data: str) -> None:
        self.tags.append(("<?", data))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def is_quiet(text: str) -> bool:
    """Whether a terminal would do nothing but show it, and nothing of it would be hidden or turned around."""
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    blank = "\u034f\u115f\u1160\u3164\uffa0\ufe0f\U000e0100"
    return not any((unicodedata.category(char) in hidden and char != "\n") or char in blank for char in text)
