"""Readers: what each format gives, and that a file can only be read or refused in one line."""

from __future__ import annotations

import datetime
import gzip
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hub_world import ROWS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from algos.engine.errors import UserError
from eval.data import load_prompts, read_rows
from eval.data.rows import as_json


def _write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return str(path)


def _jsonl(rows: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _refusal(source: str) -> str:
    with pytest.raises(UserError) as caught:
        read_rows(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["f.jsonl", "f.jsonl.gz", "f.json", "array.json", "f.parquet", "saved"])
def test_every_typed_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    import datasets

    path = tmp_path / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(_jsonl(ROWS).encode()))
    elif name == "array.json":
        _write(path, json.dumps(ROWS, indent=1))
    elif name == "f.parquet":
        datasets.Dataset.from_list(ROWS).to_parquet(path)
    elif name == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(path)
    else:
        _write(path, _jsonl(ROWS))
    table = read_rows(str(path))
    assert [row.values for row in table.rows] == ROWS
    assert [row.line for row in table.rows] == [1, 2]
    assert table.rows[1].place == f"{path}:2"
    assert table.faults == []


def test_what_json_has_no_word_for_is_the_same_before_and_after_it_is_kept(tmp_path: Path) -> None:
    """A reward labels pairs with the rows as they were read, and scores runs with those that were kept as JSON."""
    import pyarrow as pa
    import pyarrow.parquet

    day = datetime.datetime(2026, 1, 2, 3, 4, 5)
    columns = {
        "prompt": ["a"],
        "when": [day],
        "price": pa.array([Decimal("1.50")]),
        "raw": [b"\xff\x00"],
        "took": [datetime.timedelta(seconds=90)],
        "nested": [{"days": [day.date()]}],
        "nothing": pa.array([None], pa.int64()),
    }
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "f.parquet")
    (row,), _ = load_prompts(str(tmp_path / "f.parquet"))
    assert row.values == {
        "prompt": "a",
        "when": "2026-01-02T03:04:05",
        "price": "1.50",
        "raw": "/wA=",
        "took": 90.0,
        "nested": {"days": ["2026-01-02"]},
        "nothing": None,
    }
    assert json.loads(json.dumps(row.values)) == row.values
    assert as_json(np.arange(2.0)) == [0.0, 1.0]
    assert as_json(object()) == "<object>", "no address, which would be another in every process"


def test_a_saved_dataset_has_splits(tmp_path: Path) -> None:
    import datasets

    path = str(tmp_path / "saved")
    parts = {name: datasets.Dataset.from_list([{"prompt": name}]) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(path)
    assert read_rows(path).rows[0].values == {"prompt": "train"}
    assert read_rows(f"{path}:test").rows[0].values == {"prompt": "test"}
    assert "no split 'dev', only 'train', 'test'" in _refusal(f"{path}:dev")


def test_jsonl_counts_blank_lines_and_keeps_line_numbers(tmp_path: Path) -> None:
    table = read_rows(_write(tmp_path / "f.jsonl", '\ufeff\r\n{"prompt": "a"}\r\n  \r\n{"prompt": "b"}'))
    assert [(row.line, row.values["prompt"]) for row in table.rows] == [(2, "a"), (4, "b")]
    assert table.blank_lines == 2


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b'{"prompt": "a', "not JSON", "ends too early"),
        (b'{"prompt": "a"', "not JSON", "ends too early"),
        (b"{'prompt': 1}", "not JSON", "position 2"),
        (b'["a"]', "not an object", "JSON object"),
        (b"null", "not an object", "JSON object"),
        (b"[" * 200_000, "nested too deeply", "more than 100 levels"),
        (b'{"prompt": ' + b"[" * 100 + b"]" * 100 + b"}", "nested too deeply", "more than 100 levels"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not JSON", "too many digits"),
        (b'{"prompt": "\xe9"}', "not UTF-8", "byte 0xe9 at position 13"),
    ],
)
def test_a_broken_line_is_a_fault_and_the_others_are_read(
    tmp_path: Path, line: bytes, reason: str, detail: str
) -> None:
    table = read_rows(_write(tmp_path / "f.jsonl", b'{"prompt": "a"}\n' + line + b'\n{"prompt": "b"}\n'))
    assert [row.line for row in table.rows] == [1, 3]
    [(number, fault)] = table.faults
    assert (number, fault.reason) == (2, reason)
    assert detail in fault.detail


def test_a_hundred_levels_are_read(tmp_path: Path) -> None:
    row = b'{"prompt": ' + b"[" * 99 + b"]" * 99 + b"}"
    assert read_rows(_write(tmp_path / "f.jsonl", row)).faults == []


@pytest.mark.parametrize("name", ["f.jsonl", "f.json", "f.csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_utf16_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    assert "Save it as UTF-8" in _refusal(_write(tmp_path / name, "prompt\n".encode(encoding)))


@pytest.mark.parametrize("name", ["f.jsonl", "f.json", "f.csv", "f.parquet", "f.jsonl.gz", "f.txt", "f"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    assert name in _refusal(_write(tmp_path / name, b""))


def test_a_torn_archive_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(_jsonl(ROWS).encode())
    assert "whole" in _refusal(_write(tmp_path / "f.jsonl.gz", whole[:-10]))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "save_to_disk" in _refusal(str(tmp_path))


def test_a_file_has_no_splits(tmp_path: Path) -> None:
    assert "no splits" in _refusal(_write(tmp_path / "f.jsonl", _jsonl(ROWS)) + ":test")


def test_csv_cells_stay_the_text_they_are(tmp_path: Path) -> None:
    long = "x" * 200_000
    text = f'\ufeffprompt,answer\r\nNA,null\r\n\r\n1e5,"two\r\nlines, ""quoted"""\r\n,{long}\r\n'
    table = read_rows(_write(tmp_path / "f.csv", text))
    cells = [(row.line, row.values["prompt"], row.values["answer"]) for row in table.rows]
    assert cells == [(2, "NA", "null"), (4, "1e5", 'two\r\nlines, "quoted"'), (6, "", long)]
    assert table.blank_lines == 1


@pytest.mark.parametrize(
    ("record", "why"), [('"a" b,c', "',' expected"), ('"never closed,c', "unexpected end of data")]
)
def test_a_stray_quote_is_named_with_its_line(tmp_path: Path, record: str, why: str) -> None:
    path = _write(tmp_path / "f.csv", f"prompt,answer\na,b\n{record}\nc,d\n")
    message = _refusal(path)
    assert message.startswith(f"{path}:3: ")
    assert why in message


def test_csv_names_records_of_another_length_and_broken_bytes(tmp_path: Path) -> None:
    table = read_rows(_write(tmp_path / "f.csv", "prompt,answer\na\nb,c\nd,e,f\n"))
    assert [row.line for row in table.rows] == [3]
    assert [(line, fault.detail) for line, fault in table.faults] == [
        (2, "has 1 cells where the header has 2"),
        (4, "has 3 cells where the header has 2"),
    ]
    assert "f.csv:2: not UTF-8" in _refusal(_write(tmp_path / "f.csv", b"prompt\n\xff\n"))
    assert "'prompt' twice" in _refusal(_write(tmp_path / "f.csv", "prompt,prompt\na,b\n"))


def test_columns_are_renamed(tmp_path: Path) -> None:
    rows = [{"question": "q", "chosen": "good", "rejected": "bad", "prompt": "unused"}]
    path = _write(tmp_path / "f.jsonl", _jsonl(rows))
    table = read_rows(path, {"prompt": "question", "chosen": "rejected", "rejected": "chosen"})
    assert table.rows[0].values == {"prompt": "q", "chosen": "bad", "rejected": "good"}
    with pytest.raises(UserError, match=r"no column 'qestion'.*Did you mean prompt='question'\?"):
        read_rows(path, {"prompt": "qestion"})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["f.jsonl", "f.json", "f.csv", "f.parquet", "f.jsonl.gz"]),
    start=st.sampled_from([b"", b"[", b'{"a": ', b'a,"b\n', b"PAR1", b"\x1f\x8b\x08\x00", b"\xff\xfe"]),
    rest=st.binary(max_size=200),
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, name: str, start: bytes, rest: bytes) -> None:
    path = _write(tmp_path / name, start + rest)
    try:
        table = read_rows(path)
    except UserError as error:
        message = str(error)
    else:
        message = path
        assert table.rows or table.faults
        if name == "f.jsonl" and not (start + rest).startswith(b"\x1f\x8b"):
            lines = (start + rest).removesuffix(b"\n").count(b"\n") + 1
            assert len(table.rows) + len(table.faults) + table.blank_lines == lines
    assert path in message
    assert "\n" not in message
