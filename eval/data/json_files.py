"""JSON Lines and JSON arrays → tables. A loop of our own, so that every fault names its line."""

from __future__ import annotations

import json
from typing import Any

from algos.engine.errors import UserError, one_line
from eval.data.lines import MEBIBYTE, decode, decoded_lines, text_lines
from eval.data.rows import Row, RowError, Table

# What is read must also be compared and written again, which recurses: the reader's own limit is too near.
_MAX_DEPTH = 100
_MAX_ARRAY = 1024 * MEBIBYTE


def read_jsonl(path: str) -> Table:
    """JSON Lines, gzipped or not: one object a line. A line that is not one becomes a fault of the table."""
    table = Table(path, rows=[])
    blank_lines = 0
    for line, raw in text_lines(path):
        if not raw.strip():
            blank_lines += 1
            continue
        try:
            value, suspect = _parse(decode(raw))
            table.rows.append(Row(_row(value, suspect), line, path))
        except RowError as fault:
            table.faults.append((line, fault))
    return Table(path, table.rows, table.faults, blank_lines)


def read_json(path: str) -> Table:
    """A JSON array of objects, or JSON Lines under the name `.json`. Rows of an array count from 1."""
    if _first_byte(path) != b"[":
        table = read_jsonl(path)
        if not table.rows and len(table.faults) > 1:
            _refuse_single_object(path)
        return table
    items, suspect = _whole(path)
    table = Table(path, rows=[])
    for index, item in enumerate(items, 1):
        try:
            table.rows.append(Row(_row(item, suspect), index, path))
        except RowError as fault:
            table.faults.append((index, fault))
    return table


def _first_byte(path: str) -> bytes:
    """The first that is not white space; empty where there is none."""
    for _, raw in text_lines(path, longest=_MAX_ARRAY):
        if raw.strip():
            return raw.lstrip()[:1]
    return b""


def _whole(path: str) -> tuple[Any, bool]:
    """As `_parse`, of the whole file. Raises UserError naming the line at which it is no JSON."""
    parts, size = [], 0
    for _, text in decoded_lines(path, longest=_MAX_ARRAY):
        parts.append(text)
        size += len(text)
        if size > _MAX_ARRAY:
            raise UserError(
                f"{path} is an array of more than {_MAX_ARRAY // MEBIBYTE} MiB, which has to be read at once. "
                "Write it as JSON Lines, one object a line."
            )
    try:
        return _parse("".join(parts))
    except RowError as fault:
        place = f"{path}:{fault.line}" if fault.line else path
        raise UserError(f"{place} cannot be read: {fault.detail}. Give an array of objects.") from None


def _refuse_single_object(path: str) -> None:
    """Where no line of the file is an object but the whole of it is one, the user is told of that."""
    try:
        value, _ = _whole(path)
    except UserError:
        return  # it is no JSON either way: the lines' own faults say more
    if isinstance(value, dict):
        names = ", ".join(map(ascii, list(value)[:5])) or "nothing"
        raise UserError(
            f"{path} is one JSON object (with {names}), not rows. Give an array of objects, or one object a line."
        )


def _parse(text: str) -> tuple[Any, bool]:
    """A JSON value, and whether `_row` has to look into all of it. Raises RowError."""
    objects = _Objects()
    try:
        value = json.loads(text, object_pairs_hook=objects)
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        # The end may be given as the start of what was left open: both mean that something is missing.
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        why = "it ends too early" if cut else one_line(ValueError(error.msg))
        raise RowError("not JSON", f"not JSON ({why}, at position {error.colno})", error.lineno) from None
    except ValueError:  # an integer of more digits than Python converts
        raise RowError("not JSON", "not JSON that can be read (a number with too many digits)") from None
    deep = text.count("[") + text.count("{") > _MAX_DEPTH
    return value, deep or objects.ambiguous or "\\ud" in text or "\\uD" in text


class _Ambiguous(dict[str, Any]):
    """An object in which a name occurs twice: of the two values, one would be lost without a word."""

    name = ""


class _Objects:
    """Makes JSON's objects, and remembers whether any of them was ambiguous."""

    def __init__(self) -> None:
        self.ambiguous = False

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        names = [name for name, _ in pairs]
        self.ambiguous, found = True, _Ambiguous(found)
        found.name = next(name for name in names if names.count(name) > 1)
        return found


def _row(value: Any, suspect: bool) -> dict[str, Any]:
    """The columns of one row; raises RowError where nothing could work with them."""
    if not isinstance(value, dict):
        raise RowError("not an object", "not a JSON object with a name for each column")
    level: list[Any] = [value] if suspect else []
    depth = 0
    while level:
        depth += 1
        inner: list[Any] = []
        for part in level:
            _refuse_part(part)
            if isinstance(part, (list, dict)):
                inner += [*part, *part.values()] if isinstance(part, dict) else part
        if depth > _MAX_DEPTH and any(isinstance(part, (list, dict)) for part in level):
            raise _too_deep()
        level = inner
    return value


def _refuse_part(part: Any) -> None:
    if isinstance(part, _Ambiguous):
        raise RowError("a name twice", f"names {part.name[:40]!a} twice in one object")
    if isinstance(part, str) and not part.isascii():
        try:  # JSON can write half of a surrogate pair; no tokenizer takes it and no file can hold it
            part.encode("utf-8")
        except UnicodeEncodeError:
            raise RowError("not valid Unicode", "holds half of a surrogate pair") from None


def _too_deep() -> RowError:
    return RowError("nested too deeply", f"nested more than {_MAX_DEPTH} levels deep")
