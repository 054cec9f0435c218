"""A generator of files: odd values in one of the formats, then damaged."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from typing import Any

from wicked_files import PAIR, TEXTS, dialogue


def random_file(numbers: random.Random) -> tuple[str, bytes]:
    """A name and content: rows of odd values in one of the formats, then damaged up to three times."""
    rows = [_random_row(numbers) for _ in range(numbers.randrange(1, 8))]
    kind = numbers.choice(("jsonl", "json", "csv", "parquet"))
    content = {"jsonl": _as_lines, "json": _as_array, "csv": as_csv, "parquet": _as_parquet}[kind](rows)
    for _ in range(numbers.choice((0, 0, 1, 1, 2, 3))):
        content = numbers.choice(_DAMAGES)(content, numbers)
    packed = kind != "parquet" and numbers.random() < 0.1
    return f"random.{kind}" + (".gz" if packed else ""), gzip.compress(content) if packed else content


def _random_row(numbers: random.Random) -> dict[str, Any]:
    if numbers.random() < 0.5:
        row: dict[str, Any] = {name: numbers.choice(TEXTS) for name in PAIR}
    else:
        row = {name: _random_value(numbers, 3) for name in PAIR if numbers.random() < 0.95}
    if numbers.random() < 0.3:
        row[numbers.choice(("self", "completions", "completion", "score", "", "прочее", "a b"))] = (
            _random_value(numbers, 3)
        )
    return row


def _random_value(numbers: random.Random, depth: int) -> Any:
    choice = numbers.randrange(10)
    if choice < 5 or not depth:
        return numbers.choice(TEXTS)
    if choice == 5:
        return numbers.choice((None, True, False, 0, -1, 2**70, 0.1, float("nan"), float("inf")))
    if choice == 6:
        return [_random_value(numbers, depth - 1) for _ in range(numbers.randrange(3))]
    if choice == 7:
        return {numbers.choice(("a", "role", "")): _random_value(numbers, depth - 1)}
    turns = [numbers.choice(TEXTS) for _ in range(numbers.randrange(4))]
    return dialogue(*turns) if choice == 8 else dialogue("", *turns)[1:]


def _as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=bool(i % 2)) + "\n" for i, row in enumerate(rows)).encode(
        "utf-8", "surrogatepass"
    )


def _as_array(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, indent=1).encode()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """A CSV of all columns, other values than text as Python writes them."""
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["prompt"]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([str(row.get(name, "")) for name in names] for row in rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def _as_parquet(rows: list[dict[str, Any]]) -> bytes:
    """Columns of one type each, as the format has it: values of another become their text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            columns[name] = pa.array([str(value) for value in values])
    sink = io.BytesIO()
    try:
        pq.write_table(pa.table(columns), sink)
    except pa.ArrowException:  # a struct without fields cannot be written
        pq.write_table(pa.table({"prompt": ["p"]}), sink)
    return sink.getvalue()


def _cut(content: bytes, numbers: random.Random) -> bytes:
    return content[: numbers.randrange(len(content) + 1)]


def _flip(content: bytes, numbers: random.Random) -> bytes:
    damaged = bytearray(content or b"\n")
    for _ in range(numbers.randrange(1, 4)):
        damaged[numbers.randrange(len(damaged))] = numbers.choice(b'\x00\n"\\,{}[]:\x80\xff\xc3 0')
    return bytes(damaged)


def _insert(content: bytes, numbers: random.Random) -> bytes:
    pieces = (
        b'"',
        b"\x00",
        b"[" * 2000,
        b"\n\n",
        b"\xef\xbb\xbf",
        b"9" * 5000,
        b"\\ud800",
        b"\r",
        b"\xff",
        b",",
        b"{}",
        b"null",
    )
    place = numbers.randrange(len(content) + 1)
    return content[:place] + numbers.choice(pieces) + content[place:]


def _repeat(content: bytes, numbers: random.Random) -> bytes:
    start = numbers.randrange(len(content) + 1)
    return content[:start] + content[start : start + 40] * 2 + content[start + 40 :]


def _recode(content: bytes, numbers: random.Random) -> bytes:
    encoding = numbers.choice(("utf-16", "utf-16-le", "utf-32", "latin-1"))
    return content.decode("utf-8", "replace").encode(encoding, "replace")


_DAMAGES = (_cut, _flip, _insert, _repeat, _recode)
