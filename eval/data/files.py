"""Local files of lines and cells (JSONL, JSON, CSV) → tables. Our own loops, so that faults name their line."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from algos.engine.errors import UserError, one_line
from eval.data.rows import Row, RowError, Table

_UTF8_MARK = b"\xef\xbb\xbf"
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")  # UTF-16 either way and UTF-32 either way
_GZIP_MAGIC = b"\x1f\x8b"
# Far above any text one trains on, and a C long on every platform; the default of 131,072 is not.
_MAX_CSV_FIELD = 2**31 - 1
# What is read must also be compared and written again, which recurses: the reader's own limit is too near.
_MAX_DEPTH = 100


def read_jsonl(path: str) -> Table:
    """JSON Lines, gzipped or not: one object a line. A line that is not one becomes a fault of the table."""
    table = Table(path, rows=[])
    blank_lines = 0
    for line, raw in _lines(path):
        if not raw.strip():
            blank_lines += 1
            continue
        try:
            table.rows.append(Row(_object(_parse_json(_decode(raw))), line, path))
        except RowError as fault:
            table.faults.append((line, fault))
    return Table(path, table.rows, table.faults, blank_lines)


def read_json(path: str) -> Table:
    """A JSON array of objects, or JSON Lines under the name `.json`. Rows of an array count from 1."""
    with _open(path) as handle:
        start = handle.read(4096).removeprefix(_UTF8_MARK).lstrip()
    if not start.startswith(b"["):
        return read_jsonl(path)
    try:
        items = _parse_json(_decode(b"".join(raw for _, raw in _lines(path))))
    except RowError as fault:
        raise UserError(
            f"{path} cannot be read: {fault.detail}. Give an array of objects as UTF-8."
        ) from None
    table = Table(path, rows=[])
    for index, item in enumerate(items, 1):
        try:
            table.rows.append(Row(_object(item), index, path))
        except RowError as fault:
            table.faults.append((index, fault))
    return table


def read_csv(path: str) -> Table:
    """CSV with a header. Every cell stays the text it is: "NA", "null" and "1e5" are words.

    A quote that does not close, or closes in the middle of a cell, ends the reading with a `UserError`:
    what follows it cannot be told apart from the cell it opened. A record with more or fewer cells than
    the header has names is a fault of the table.
    """
    before = csv.field_size_limit(_MAX_CSV_FIELD)  # one setting for the whole process: put back below
    try:
        return _read_records(path)
    finally:
        csv.field_size_limit(before)


def _read_records(path: str) -> Table:
    reader = csv.reader(_text_lines(path), strict=True)
    rows: list[Row] = []
    faults: list[tuple[int, RowError]] = []
    header: list[str] | None = None
    blank_lines, line = 0, 1
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
    return cells


def _text_lines(path: str) -> Iterator[str]:
    for line, raw in _lines(path):
        try:
            yield _decode(raw)
        except RowError as fault:
            raise UserError(f"{path}:{line}: {fault.detail}. Save the file as UTF-8.") from None


@contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked where it is gzipped (told by its first bytes, whatever its name)."""
    try:
        with open(path, "rb") as plain:
            packed = plain.read(2) == _GZIP_MAGIC
            plain.seek(0)
            if not packed:
                yield plain
                return
            with gzip.open(plain) as unpacked:
                yield unpacked  # type: ignore[misc]  # a GzipFile is a binary stream in all but its type
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}. Check that the file is whole.") from None


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """(line, bytes) for each line, from 1. Lines end with a line feed only: U+2028 is part of a text."""
    with _open(path) as handle:
        for line, raw in enumerate(handle, 1):
            if line == 1:
                if raw.startswith(_WIDE_MARKS):
                    raise UserError(f"{path} is UTF-16 or UTF-32, not UTF-8. Save it as UTF-8.")
                raw = raw.removeprefix(_UTF8_MARK)
            yield line, raw


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1})"
        raise RowError("not UTF-8", detail) from None


def _parse_json(text: str) -> Any:
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        # The end may be given as the start of what was left open: both mean that something is missing.
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        why = "it ends too early" if cut else one_line(ValueError(error.msg))
        raise RowError("not JSON", f"not JSON ({why}, at position {error.pos + 1})") from None
    except ValueError:  # an integer of more digits than Python converts
        raise RowError("not JSON", "not JSON that can be read (a number with too many digits)") from None
    if text.count("[") + text.count("{") > _MAX_DEPTH and _is_deeper(value, _MAX_DEPTH):
        raise _too_deep()
    return value


def _is_deeper(value: Any, limit: int) -> bool:
    """Whether lists and objects stand in each other more than `limit` levels deep."""
    level = [value]
    for _ in range(limit):
        inner = [item for item in level if isinstance(item, (list, dict))]
        level = [part for item in inner for part in (item.values() if isinstance(item, dict) else item)]
    return any(isinstance(item, (list, dict)) for item in level)


def _too_deep() -> RowError:
    return RowError("nested too deeply", f"nested more than {_MAX_DEPTH} levels deep")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowError("not an object", "not a JSON object with a name for each column")
    return value
