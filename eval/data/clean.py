"""Read, normalise, and leave out what nothing can be learned from, with an account of every row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from algos.engine.errors import UserError
from algos.engine.template import Text
from eval.data.accounting import MAX_EXAMPLES, Accounting
from eval.data.normalise import normalise_pair, normalise_prompt
from eval.data.read import read_rows
from eval.data.rows import Row, RowError, Table

OnBadRow: TypeAlias = Literal["stop", "skip"]


def load_prompts(
    source: str, columns: Mapping[str, str] | None = None, on_bad_row: OnBadRow = "stop"
) -> tuple[list[Row], Accounting]:
    """Prompts of `source` (see `read_rows`): rows of `{"prompt": str | messages, ...other columns}`.

    A prompt that occurs again is dropped and counted. Raises `UserError` where the file cannot be read, has
    no prompt column, no row is left, or rows are malformed and `on_bad_row` is "stop".
    """
    table = read_rows(source, columns)
    _require_columns(table, ["prompt"])
    return _clean(table, normalise_prompt, _keep_prompt, on_bad_row)


def load_pairs(
    source: str, columns: Mapping[str, str] | None = None, on_bad_row: OnBadRow = "stop"
) -> tuple[list[Row], Accounting]:
    """Preference pairs of `source` (see `read_rows`): rows of `{"prompt", "chosen", "rejected"}`.

    Pairs that are identical, have an empty response (white space at most), or occur again are dropped and
    counted; a pair that contradicts an earlier one is kept (people do disagree) and noted. Raises
    `UserError` as `load_prompts` does.
    """
    table = read_rows(source, columns)
    _require_columns(table, ["chosen", "rejected"])
    explicit = "prompt" in table.column_names
    return _clean(table, lambda values: normalise_pair(values, explicit), _keep_pair, on_bad_row)


def _require_columns(table: Table, names: list[str]) -> None:
    known = table.column_names
    missing = [name for name in names if name not in known]
    if missing and table.rows:
        raise UserError(
            f"{table.source} has no column {missing[0]!a}; got {', '.join(map(ascii, known[:20])) or 'none'}. "
            f"Name the column to use instead with --columns {missing[0]}=NAME."
        )


def _clean(
    table: Table,
    normalise: Callable[[dict[str, Any]], dict[str, Any]],
    keep: Callable[[Row, set[bytes], Accounting], bool],
    on_bad_row: OnBadRow,
) -> tuple[list[Row], Accounting]:
    if on_bad_row not in ("stop", "skip"):
        raise UserError(f"--on-bad-row is stop or skip; got {on_bad_row!a}.")
    accounting = Accounting(table.source, len(table.rows) + len(table.faults), table.blank_lines)
    faults = list(table.faults)
    rows: list[Row] = []
    for row in table.rows:
        try:
            rows.append(Row(normalise(row.values), row.line, row.source))
        except RowError as fault:
            faults.append((row.line, fault))
    faults.sort(key=lambda placed: placed[0])
    if faults and on_bad_row == "stop":
        raise UserError(_listing(faults, accounting))
    for line, found in faults:
        accounting.drop(found.reason, line)
    seen: set[bytes] = set()
    kept = [row for row in rows if keep(row, seen, accounting)]
    if not kept:
        raise UserError(f"no usable row is left. {' '.join(accounting.sentences())} Give a file with others.")
    return kept, accounting


def _listing(faults: list[tuple[int, RowError]], accounting: Accounting) -> str:
    shown = "; ".join(f"{accounting.file}:{line} {fault.detail}" for line, fault in faults[:MAX_EXAMPLES])
    more = f"; and {len(faults) - MAX_EXAMPLES} more" if len(faults) > MAX_EXAMPLES else ""
    return (
        f"{len(faults)} of {accounting.read} rows cannot be used: {shown}{more}. "
        "Mend them, or leave them out with --on-bad-row skip."
    )


def _keep_prompt(row: Row, seen: set[bytes], accounting: Accounting) -> bool:
    key = _digest(row.values["prompt"])
    if key in seen:
        accounting.drop("duplicate prompt", row.line)
        return False
    seen.add(key)
    _note_empty_prompt(row, accounting)
    return True


def _keep_pair(row: Row, seen: set[bytes], accounting: Accounting) -> bool:
    prompt, chosen, rejected = (row.values[name] for name in ("prompt", "chosen", "rejected"))
    key = _digest([prompt, chosen, rejected])
    reason = None
    if chosen == rejected:
        reason = "identical chosen and rejected"
    elif _is_empty(chosen):
        reason = "empty chosen"
    elif _is_empty(rejected):
        reason = "empty rejected"
    elif key in seen:
        reason = "exact duplicate pair"
    if reason:
        accounting.drop(reason, row.line)
        return False
    if _digest([prompt, rejected, chosen]) in seen:
        accounting.note("contradicting label", row.line)
    seen.add(key)
    _note_empty_prompt(row, accounting)
    return True


def _note_empty_prompt(row: Row, accounting: Accounting) -> None:
    if _is_empty(row.values["prompt"]):
        accounting.note("empty prompt", row.line)


def _is_empty(text: Text) -> bool:
    """Whether there is nothing but white space: real files write a missing answer as a single space."""
    if isinstance(text, str):
        return not text.strip()
    return not any(message["content"].strip() for message in text)


def _digest(value: Any) -> bytes:
    """16 bytes for a whole text, so that what was seen of a large file stays small in memory."""
    canonical = json.dumps(value, sort_keys=True, default=repr)
    return hashlib.blake2b(canonical.encode("utf-8"), digest_size=16).digest()
