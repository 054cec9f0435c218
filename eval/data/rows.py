"""What a file holds once it is read: rows that know where they stood, and faults that know why."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID


@dataclass(frozen=True)
class Row:
    """One row: its columns, and where it stood.

    `line` counts from 1. It is the line of a JSONL or CSV file (for CSV the first line of the record);
    formats without lines (JSON arrays, Parquet, datasets) count rows.
    """

    values: dict[str, Any]
    line: int
    source: str

    @property
    def place(self) -> str:
        """`file:line`, as messages name it."""
        return f"{self.source}:{self.line}"


def as_json(value: Any) -> Any:
    """A cell in JSON's own types, so that a reward is given the same while pairs are labelled and, from the file they are
    then kept in, while runs train. What JSON has no word for becomes text; what has no text but its address, its type."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): as_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return as_json(value.tolist())
    return str(value) if isinstance(value, Decimal | UUID) else f"<{type(value).__name__}>"


class RowError(ValueError):
    """Why one row cannot be used: a reason that is counted, and a detail for the one who mends the row.

    Neither quotes what the row holds: text from a file must not reach a terminal unescaped. `line` counts
    within what was parsed, which matters where that is a whole file.
    """

    def __init__(self, reason: str, detail: str, line: int = 0) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.line = line


@dataclass(frozen=True)
class Table:
    """A file as read. Every line of it is in `rows`, in `faults` or among the `blank_lines`."""

    source: str
    rows: list[Row]
    faults: list[tuple[int, RowError]] = field(default_factory=list)  # (line, why it could not be read)
    blank_lines: int = 0

    @property
    def column_names(self) -> list[str]:
        """The names of all columns, in the order in which they first occur."""
        return list(dict.fromkeys(name for row in self.rows for name in row.values))
