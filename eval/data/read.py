"""A file, a saved dataset or a dataset on the Hugging Face hub → a table of rows that know their line."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from algos.engine.errors import UserError, one_line
from eval.data.csv_files import read_csv
from eval.data.hub import load_hub_dataset
from eval.data.json_files import read_json, read_jsonl
from eval.data.lines import open_bytes
from eval.data.rows import Row, Table

_FORMATS = ".jsonl, .json, .csv (each also .gz) or .parquet"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@\w[\w./-]*)?", re.ASCII)


def read_rows(source: str, columns: Mapping[str, str] | None = None) -> Table:
    """All rows of `source`, every cell as it was written.

    `source` is a `.jsonl`, `.json`, `.csv` (each also gzipped) or `.parquet` file, a directory made by
    `datasets.save_to_disk`, or a dataset's name on the Hugging Face hub (`owner/name`, or
    `owner/name/configuration` where it has several, each with `@revision` behind it where one is wanted); the last two take a split after a colon
    (`owner/name:test`), by default `train`. `columns` maps the names that are wanted to the file's own:
    `{"prompt": "question"}`.

    Lines that cannot be read stand in the table's `faults`, each with its reason; whoever uses the rows
    decides whether they stop him. Raises `UserError` where the file as a whole cannot be read: missing,
    empty, neither UTF-8 nor Parquet, a stray quote in a CSV, a name in `columns` that no row has.
    """
    table = _read(source)
    if not table.rows and not table.faults:
        raise UserError(f"{source} holds no rows. Give a file with at least one.")
    return _renamed(table, columns) if columns and table.rows else table


def _read(source: str) -> Table:
    path, split = _path_and_split(source)
    if os.path.isdir(path):
        return _read_saved(path, split, source)
    if os.path.exists(path):
        if path != source:
            raise UserError(f"{path} is a file and has no splits; got {source!a}. Leave out the split.")
        return _reader_of(path)(path)
    if hub_name(source):
        return _read_hub(path, split, source)
    raise UserError(
        f"there is no file or directory {source!a}. Check the path; a dataset on the Hugging Face hub "
        "is named owner/name, a split of it owner/name:split, a revision owner/name@revision."
    )


def hub_name(source: str) -> str:
    """`owner/name`, where `source` names a dataset on the hub and no file of this machine; else empty."""
    path, _ = _path_and_split(source)
    if os.path.exists(path) or _file_format(path) is not None or not _HUB_ID.fullmatch(path):
        return ""
    return "/".join(path.partition("@")[0].split("/")[:2])


def _path_and_split(source: str) -> tuple[str, str]:
    if os.path.exists(source) or ":" not in source:
        return source, "train"
    path, _, split = source.rpartition(":")
    return path, split


def _file_format(path: str) -> str | None:
    name = path.lower()
    stem = name.removesuffix(".gz")
    return next((end for end in (".jsonl", ".json", ".csv", ".parquet") if stem.endswith(end)), None)


def _reader_of(path: str) -> Callable[[str], Table]:
    readers = {".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv, ".parquet": read_parquet}
    file_format = _file_format(path)
    if file_format is None:
        raise UserError(f"{path} has no known format; got {os.path.basename(path)!a}. Give {_FORMATS}.")
    return readers[file_format]


def read_parquet(path: str) -> Table:
    """A Parquet file; its rows count from 1."""
    import pyarrow.parquet

    def rows() -> Iterator[dict[str, Any]]:
        with open_bytes(path) as (handle, _), pyarrow.parquet.ParquetFile(handle) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()

    return _collect(rows, path, "Check that it is a whole Parquet file.")


def _read_saved(path: str, split: str, source: str) -> Table:
    import datasets

    def rows() -> Iterable[dict[str, Any]]:
        saved = datasets.load_from_disk(path)
        if not isinstance(saved, datasets.DatasetDict):
            return saved
        if split not in saved:
            raise ValueError(f"it has no split {split!a}, only {', '.join(map(ascii, saved))}")
        return saved[split]

    return _collect(rows, source, "Give a directory made by datasets.save_to_disk, or directory:split.")


def _read_hub(name: str, split: str, source: str) -> Table:
    return _collect(
        lambda: load_hub_dataset(name, split),
        source,
        "There is no such file, so it was looked for on the Hugging Face hub: check the path, the dataset's "
        "name (owner/name:split) and the network.",
    )


def _collect(rows: Callable[[], Iterable[dict[str, Any]]], source: str, remedy: str) -> Table:
    """The rows of a library's reader, counted from 1; whatever it raises becomes a `UserError`."""
    try:
        return Table(source, [Row(dict(values), index, source) for index, values in enumerate(rows(), 1)])
    except UserError:
        raise
    except Exception as error:  # a broken file ends in errors of many libraries, not all of one base
        raise UserError(f"{source} cannot be read: {one_line(error)}. {remedy}") from None


def _renamed(table: Table, columns: Mapping[str, str]) -> Table:
    known = table.column_names
    for wanted, given in columns.items():
        if given not in known:
            close = difflib.get_close_matches(given, known, n=1)
            hint = f"Did you mean {wanted}={close[0]!a}?" if close else f"It has {_listed(known)}."
            raise UserError(f"{table.source} has no column {given!a} to use as {wanted!a}. {hint}")
    rows = [Row(_rename(row.values, columns), row.line, row.source) for row in table.rows]
    return Table(table.source, rows, table.faults, table.blank_lines)


def _rename(values: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    # A column whose name is taken by the mapping gives way to the one that was asked for.
    taken = {*columns, *columns.values()}
    others = {name: value for name, value in values.items() if name not in taken}
    return {new: values[old] for new, old in columns.items() if old in values} | others


def _listed(names: list[str]) -> str:
    return ", ".join(map(ascii, names[:20])) or "none"
