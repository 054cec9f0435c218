"""Files as they should not be: each made on the spot, with what is to come of it."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAIR = {"prompt": "p", "chosen": " good", "rejected": " bad"}
LINE = json.dumps(PAIR).encode() + b"\n"

TEXTS = (
    "", " ", "\n", "\x00", "\x1b[31mred\x07", "a\u2028b\u2029c", "\ufeffmarked", "\u202egnp.exe", "\ud7ff\ue000\uffff",
    "👩‍👩‍👧‍👦🏳️‍🌈", "e\u0301 \u1112\u1161\u11ab", "=1+1;@SUM(A1)", '"', "'", "\\", "{{ 7*7 }} {0} %s ${HOME}",
    "<script>alert(1)</script>", "../../etc/passwd; rm -rf ~ `id`", "NaN", "null", "1e5", "-0", "true", "</s><eos><|im_end|>",
    "\n\nHuman: a\n\nAssistant:", "[{'role': 'user', 'content': 'x'}]", "| a | b |\n|---|", "a" * 3000, "x " * 1500, "\r\n", "\t",
)  # fmt: skip
"""Texts that have broken programs. None is a mistake: all are to pass."""


@dataclass(frozen=True)
class Wicked:
    """A file of preference pairs, and the regular expression that its refusal matches; none: it is read."""

    name: str
    make: Callable[[Path], Any]
    refused: str = ""


def _bytes(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def _values(**change: Any) -> Callable[[Path], Any]:
    return _bytes(json.dumps({**PAIR, **change}).encode())


def _raw(text: str, before: bytes = LINE) -> Callable[[Path], Any]:
    return _bytes(before + text.encode("utf-8", "surrogatepass") + b"\n")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**36)  # 64 GiB of zeros, of which the disk holds none


def _bomb(unit: bytes) -> Callable[[Path], Any]:
    """16 MiB of one unit, in as little as gzip makes of it."""
    return lambda path: path.write_bytes(gzip.compress(unit * (2**24 // len(unit)), 9))


def _table(kind: Callable[[], list[Any]]) -> Callable[[Path], Any]:
    """Parquet with `kind()` as its chosen column."""

    def make(path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        values = kind()
        columns = {"prompt": ["p"] * len(values), "chosen": values, "rejected": [" bad"] * len(values)}
        pq.write_table(pa.table(columns), path)

    return make


def _odd_columns(path: Path) -> None:
    """Good pairs beside columns of every odd type."""
    import datetime
    import decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    odd = {
        "when": pa.array([datetime.datetime(2020, 1, 1)]),
        "price": pa.array([decimal.Decimal("1.5")]),
        "blob": pa.array([b"\xff\x00"]),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "nested": pa.array([{"a": [{"b": None}]}]),
        "nothing": pa.array([None], pa.null()),
        "not a number": pa.array([float("nan")]),
    }
    pq.write_table(pa.table({**{name: pa.array([text]) for name, text in PAIR.items()}, **odd}), path)


def _saved(path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([PAIR]).save_to_disk(path)


def _torn_folder(path: Path) -> None:
    _saved(path)
    next(path.glob("*.arrow")).write_bytes(b"ARROW1")


def dialogue(*turns: str) -> list[dict[str, str]]:
    """Messages by turns, the user's first."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]


_SEMICOLONS = b"prompt;chosen;rejected\na;b;c\n"
_CSV = b"prompt,chosen,rejected\n"

WICKED = (
    # Encodings
    Wicked("utf16.jsonl", _bytes(LINE.decode().encode("utf-16")), "UTF-16"),
    Wicked("utf16-without-mark.jsonl", _bytes(LINE.decode().encode("utf-16-le")), "UTF-16"),
    Wicked("utf32.csv", _bytes(_CSV.decode().encode("utf-32")), "UTF-32"),
    Wicked("latin1.jsonl", _bytes(LINE + b'{"prompt": "caf\xe9"}\n'), r"latin1\.jsonl:2 not UTF-8 \(byte 0xe9 at position 16"),
    Wicked("latin1.csv", _bytes(_CSV + b"caf\xe9,a,b\n"), r"latin1\.csv:2: not UTF-8"),
    Wicked("latin1.json", _bytes(b'[\n{"prompt": "caf\xe9"}]'), r"latin1\.json:2: not UTF-8"),
    Wicked("cut-in-a-letter.jsonl", _bytes(LINE + '{"prompt": "é'.encode()[:-1]), r":2 not UTF-8"),
    Wicked("overlong.jsonl", _bytes(b'{"prompt": "\xc0\xaf"}'), ":1 not UTF-8"),
    Wicked("mark.jsonl", _bytes(b"\xef\xbb\xbf" + LINE)),
    Wicked("mark.json", _bytes(b"\xef\xbb\xbf[" + LINE + b"]")),
    Wicked("mark.csv", _bytes(b"\xef\xbb\xbf" + _CSV + b"a,b,c\n")),
    Wicked("crlf.jsonl", _bytes(LINE.replace(b"\n", b"\r\n") * 2)),
    Wicked("cr-only.jsonl", _bytes(LINE.replace(b"\n", b"\r") * 2), ":1 not JSON"),
    Wicked("cr-only.csv", _bytes(b"prompt,chosen,rejected\ra,b,c\r"), r"cr-only\.csv:1: .* not CSV"),
    Wicked("line-separators.jsonl", _values(chosen="a\u2028b\u2029c\x85d\x0be")),
    # JSON
    Wicked("torn.jsonl", _bytes(LINE + LINE[:20]), ":2 not JSON .it ends too early"),
    Wicked("torn.json", _bytes(b"[\n" + LINE.rstrip() + b",\n" + LINE[:20]), r"torn\.json:3 cannot be read: not JSON"),
    Wicked("comma.json", _bytes(b"[" + LINE.rstrip() + b",]"), r"comma\.json:1 cannot be read: not JSON"),
    Wicked("comment.json", _bytes(b"// pairs\n[" + LINE + b"]"), r"comment\.json:1 not JSON"),
    Wicked("pretty.json", _bytes(json.dumps(PAIR, indent=1).encode()), "one JSON object .with 'prompt'"),
    Wicked("wrapped.json", _bytes(json.dumps({"data": [PAIR]}, indent=1).encode()), "one JSON object .with 'data'"),
    Wicked("lines.json", _bytes(LINE + b'{"prompt": "q", "chosen": "a", "rejected": "b"}\n')),
    Wicked("empty-array.json", _bytes(b"[]"), "no rows"),
    Wicked("words.json", _bytes(b'["a", "b"]'), ":1 not a JSON object.*also line 2"),
    Wicked("number.json", _bytes(b"3"), ":1 not a JSON object"),
    Wicked("python.jsonl", _bytes(str(PAIR).encode()), ":1 not JSON"),
    Wicked("two-on-a-line.jsonl", _bytes(LINE.strip() * 2), ":1 not JSON .Extra data, at position 55"),
    Wicked("deep.jsonl", _bytes(LINE + b"[" * 100_000), ":2 nested more than 100 levels"),
    Wicked("deep-object.jsonl", _bytes(LINE + b'{"a":' * 100_000), ":2 nested more than 100 levels"),
    Wicked("deep-column.jsonl", _bytes(b'{"prompt": ' + b"[" * 150 + b"]" * 150 + b"}"), ":1 nested more than 100"),
    Wicked("deep.json", _bytes(b"[" * 100_000), "deep.json cannot be read: nested more than 100 levels"),
    Wicked("deep-item.json", _bytes(b"[" + LINE + b"," + b"[" * 150 + b"]" * 150 + b"]"), ":2 not a JSON object"),
    Wicked("digits.jsonl", _bytes(b'{"prompt": ' + b"9" * 9999 + b"}"), ":1 .*too many digits"),
    Wicked("huge-float.jsonl", _bytes(LINE.replace(b'"p"', b'"p", "n": 1e999, "m": -1e-999'))),
    Wicked("nan.jsonl", _bytes(LINE.replace(b'"p"', b'"p", "n": NaN, "m": [Infinity, -Infinity]'))),
    Wicked("name-twice.jsonl", _raw('{"prompt": "p", "chosen": "a", "rejected": "b", "chosen": "c"}'), ":2 names 'chosen' twice"),
    Wicked("name-twice.json", _bytes(b"[" + LINE + b',{"a": {"b": 1, "b": 2}}]'), ":2 names 'b' twice"),
    Wicked("surrogate.jsonl", _raw('{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}'), ":2 holds half of a surrogate"),
    Wicked("surrogate-elsewhere.jsonl", _raw('{"x": [{"\\uDFFF": 1}], "prompt": "a", "chosen": "a", "rejected": "b"}'), ":2 holds half"),
    Wicked("surrogate-bytes.jsonl", _raw('{"prompt": "\ud800"}'), ":2 not UTF-8"),
    Wicked("surrogate-pair.jsonl", _bytes(LINE.replace(b'"p"', b'"\\ud83d\\ude00"'))),
    Wicked("nul.jsonl", _raw('{"prompt": "a\x00"}'), ":2 not JSON"),
    Wicked("nul-escaped.jsonl", _values(prompt="a\x00b\x1b[2J")),
    Wicked("parquet-in-name-only.parquet", _bytes(LINE), "in-name-only"),
    Wicked("really-parquet.jsonl", _table(lambda: ["x"]), "really-parquet.jsonl"),
    Wicked("page.jsonl", _bytes(b"<!DOCTYPE html>\n<title>404</title>\n"), ":1 not JSON"),
    # What stands where text belongs
    Wicked("number.jsonl", _values(chosen=3), ":1 chosen is a number, not text"),
    Wicked("float.jsonl", _values(chosen=float("nan")), ":1 chosen is a number"),
    Wicked("boolean.jsonl", _values(prompt=True), ":1 prompt is a boolean"),
    Wicked("null.jsonl", _values(rejected=None), ":1 rejected is null"),
    Wicked("object.jsonl", _values(chosen={"text": "a"}), ":1 chosen is an object"),
    Wicked("list.jsonl", _values(chosen=["a"]), ":1 chosen is a list, but not of messages"),
    Wicked("no-prompt.jsonl", _bytes(LINE + b'{"chosen": "a", "rejected": "b"}'), ":2 has no prompt"),
    Wicked("no-column.jsonl", _bytes(b'{"question": "a", "chosen": "a", "rejected": "b"}'), "share no beginning|no column"),
    Wicked("no-chosen.jsonl", _bytes(b'{"prompt": "a", "Chosen": "a"}'), "no column 'chosen'; got 'prompt', 'Chosen'"),
    Wicked("empty-object.jsonl", _bytes(b"{}\n{}\n"), "no column 'chosen'; got none"),
    Wicked("parts.jsonl", _values(prompt=[{"role": "user", "content": [{"type": "text", "text": "a"}]}]), "content is a list"),
    Wicked("role-null.jsonl", _values(prompt=[{"role": None, "content": "a"}]), "role is null"),
    Wicked("mixed.jsonl", _values(chosen=dialogue("a")[:1], rejected="b"), "one of chosen and rejected is a string"),
    Wicked("unlike.jsonl", _bytes(b'{"chosen": "The fox ran", "rejected": "A dog sat"}'), "share no beginning"),
    Wicked("all-empty.jsonl", _values(chosen=" "), "no usable row is left.*1 × empty chosen"),
    Wicked("all-the-same.jsonl", _values(chosen=" bad"), "no usable row is left.*identical"),
    # CSV
    Wicked("stray-quote.csv", _bytes(_CSV + b'a,b,c\n"x" y,b,c\n'), r"stray-quote\.csv:3: .*not CSV"),
    Wicked("open-quote.csv", _bytes(_CSV + b'a,b,c\n"x,b,c\nd,e,f\n'), r"open-quote\.csv:3: .*not CSV"),
    Wicked("nul.csv", _bytes(_CSV + b"a\x00,b,c\n")),
    Wicked("short.csv", _bytes(_CSV + b"a,b\n"), ":2 has 2 cells where the header has 3"),
    Wicked("header-only.csv", _bytes(_CSV), "no rows"),
    Wicked("no-header.csv", _bytes(b"a,b,c\nd,e,f\n"), "no column 'chosen'; got 'a', 'b', 'c'"),
    Wicked("same-names.csv", _bytes(b"prompt,prompt,chosen\na,b,c\n"), "'prompt' twice"),
    Wicked("semicolons.csv", _bytes(_SEMICOLONS), "no comma but ';'"),
    Wicked("tabs.csv", _bytes(_SEMICOLONS.replace(b";", b"\t")), "no comma but"),
    Wicked("lines-in-cells.csv", _bytes(_CSV + b'"a\r\nb\n\nc",b,c\n')),
    Wicked("words.csv", _bytes(_CSV + b"NA,null,1e5\n")),
    Wicked("big-cell.csv", _bytes(_CSV + b"a," + b"x" * 2**20 + b",c\n")),
    # Parquet and folders
    Wicked("numbers.parquet", _table(lambda: [1]), ":1 chosen is a number"),
    Wicked("binary.parquet", _table(lambda: [b"a"]), ":1 chosen is of type bytes"),
    Wicked("null.parquet", _table(lambda: [None, "a"]), ":1 chosen is null"),
    Wicked("struct.parquet", _table(lambda: [{"text": "a"}]), ":1 chosen is an object"),
    Wicked("messages.parquet", _table(lambda: [[{"role": "assistant", "content": "a"}]]), "a string, the other a list"),
    Wicked("nothing.parquet", _table(list), "no rows"),
    Wicked("odd-columns.parquet", _odd_columns),
    Wicked("torn.parquet", _bytes(b"PAR1" + b"\x00" * 40 + b"PAR1"), "whole"),
    Wicked("saved", _saved),
    Wicked("torn-folder", _torn_folder, "save_to_disk"),
    Wicked("folder.jsonl", Path.mkdir, "save_to_disk"),
    # Files that are none
    Wicked("empty.jsonl", _bytes(b""), "no rows"),
    Wicked("blank.jsonl", _bytes(b"\n \r\n\t\n"), "no rows"),
    Wicked("empty.jsonl.gz", _bytes(gzip.compress(b"")), "no rows"),
    Wicked("missing.jsonl", lambda path: None, "no file or directory"),
    Wicked("dangling.jsonl", lambda path: path.symlink_to("nowhere"), "no file or directory"),
    Wicked("circle.jsonl", lambda path: path.symlink_to(path.name), "no file or directory"),
    Wicked("pipe.jsonl", os.mkfifo, "not a regular file"),
    Wicked("pipe.parquet", os.mkfifo, "not a regular file"),
    Wicked("zeros.jsonl", lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    Wicked("pairs.txt", _bytes(LINE), "no known format"),
    Wicked("pairs.tsv", _bytes(LINE), "no known format"),
    Wicked("pairs", _bytes(LINE), "no known format"),
    Wicked("new\nline\x1b[2J.jsonl", _bytes(LINE)),
    # Sizes
    Wicked("sparse.jsonl", _sparse, r"sparse\.jsonl:1: the line is longer than 64 MiB"),
    Wicked("bomb-of-lines.jsonl.gz", _bomb(b"\n"), "unpacks to more than 100 times"),
    Wicked("bomb-of-zeros.jsonl.gz", _bomb(b"\x00"), "longer than|unpacks to more|UTF-"),
    Wicked("bomb.json.gz", _bomb(b" "), "unpacks to more than 100 times|no rows"),
    Wicked("bomb.csv.gz", _bomb(b"a" * 60 + b",b\n"), "unpacks to more than 100 times"),
    Wicked("torn.jsonl.gz", _bytes(gzip.compress(LINE * 50)[:-9]), "Check that the file is whole"),
    Wicked("flipped.jsonl.gz", _bytes(gzip.compress(LINE * 50).replace(b"\x00", b"\x01")), "Check that the file is whole"),
    Wicked("gzipped-under-another-name.jsonl", _bytes(gzip.compress(LINE))),
    Wicked("long-line.jsonl", _values(chosen="word " * 2**20)),
)  # fmt: skip
