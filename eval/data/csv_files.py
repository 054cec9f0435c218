"""CSV → tables. The standard library's parser, so that every fault names its line and every cell stays text."""

from __future__ import annotations

import csv

from algos.engine.errors import UserError, one_line
from eval.data.lines import MAX_LINE, decoded_lines
from eval.data.rows import Row, RowError, Table


def read_csv(path: str) -> Table:
    """CSV with a header. Every cell stays the text it is: "NA", "null" and "1e5" are words.

    A quote that does not close, or closes in the middle of a cell, ends the reading with a `UserError`:
    what follows it cannot be told apart from the cell it opened. A record with more or fewer cells than
    the header has names is a fault of the table.
    """
    before = csv.field_size_limit(MAX_LINE)  # one setting for the whole process: put back below
    try:
        return _read_records(path)
    finally:
        csv.field_size_limit(before)


def _read_records(path: str) -> Table:
    reader = csv.reader((text for _, text in decoded_lines(path)), strict=True)
    rows: list[Row] = []
    faults: list[tuple[int, RowError]] = []
    header: list[str] | None = None
    blank_lines = 0
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return Table(path, rows, faults, blank_lines)
        except csv.Error as error:
            raise UserError(
                f"{path}:{line}: the record that begins here is not CSV ({one_line(error)}). "
                'Close its quotes, and write a quote inside a quoted cell twice ("").'
            ) from None
        if not cells:
            blank_lines += 1
        elif header is None:
            header = _header(cells, path)
        elif len(cells) != len(header):
            detail = f"has {len(cells)} cells where the header has {len(header)}"
            faults.append((line, RowError("wrong number of cells", detail)))
        else:
            rows.append(Row(dict(zip(header, cells, strict=True)), line, path))


def _header(cells: list[str], path: str) -> list[str]:
    twice = sorted({name for name in cells if cells.count(name) > 1})
    if twice:
        raise UserError(f"{path}: the header names {twice[0]!a} twice. Give every column a name of its own.")
    other = next((mark for mark in ";\t|" if len(cells) == 1 and mark in cells[0]), None)
    if other:
        raise UserError(f"{path}: the header has no comma but {other!a}. Save it with commas between cells.")
    return cells
