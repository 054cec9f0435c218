"""Read, normalise, and leave out what nothing can be learned from, with an account of every row."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from algos.engine.errors import UserError
from algos.engine.text.template import Text
from eval.data.accounting import MAX_EXAMPLES, Accounting
from eval.data.normalise import normalise_pair, normalise_prompt
from eval.data.read import read_rows
from eval.data.rows import Row, RowError, Table, as_json
from eval.data.split import normalised_prompt

OnBadRow: TypeAlias = Literal["stop", "skip"]

PAIR = ("prompt", "chosen", "rejected")
"""The columns that make a row a pair."""

# What a table of text makes of a conversation, be it written as JSON or by Python.
_MESSAGES_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*["'](role|content)["']\s*:""")


def load_prompts(
    source: str,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "stop",
    first: int | None = None,
) -> tuple[list[Row], Accounting]:
    """Prompts of `source` (see `read_rows`): rows of `{"prompt": str | messages, ...other columns}`, or of whole
    conversations (`normalise_prompt`).

    A prompt that occurs again is dropped and counted; one that differs only in case, width or white space
    is kept and noted. `columns` may name the pairs' columns too: those do not concern prompts. `first`: of
    so many rows alone. Raises `UserError` where the file cannot be read, has no prompt column, no row is left,
    or rows are malformed and `on_bad_row` is "stop".
    """
    table = _beginning(read_rows(source, _without(columns, ("chosen", "rejected"))), first)
    if "messages" not in table.column_names:
        _require_columns(table, ["prompt"])
    return _clean(table, normalise_prompt, _keep_prompt, on_bad_row)


def load_pairs(
    source: str,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "stop",
    first: int | None = None,
    other_columns: bool = False,
) -> tuple[list[Row], Accounting]:
    """Preference pairs of `source` (see `read_rows`): rows of `{"prompt", "chosen", "rejected"}`.

    Pairs that are identical, have an empty response (white space at most), or occur again are dropped and
    counted; a pair that contradicts an earlier one is kept (people do disagree) and noted, as is one that
    nearly repeats an earlier one or shares its prompt. Other columns are kept, `as_json`, with `other_columns`;
    else they are left out, and names in `columns` for them do not count. `first` and what raises `UserError` are as in
    `load_prompts`.
    """
    named = columns if other_columns else _only(columns, PAIR)
    table = _beginning(read_rows(source, named), first)
    _require_columns(table, ["chosen", "rejected"])
    explicit = "prompt" in table.column_names
    if not explicit:
        _require_common_prompts(table)

    def normalise(values: dict[str, Any]) -> dict[str, Any]:
        others = [name for name in values if name not in PAIR] if other_columns else []
        return normalise_pair(values, explicit) | {name: as_json(values[name]) for name in others}

    return _clean(table, normalise, _keep_pair, on_bad_row)


def _beginning(table: Table, first: int | None) -> Table:
    return replace(table, rows=table.rows[:first])


def _require_columns(table: Table, names: list[str]) -> None:
    known = table.column_names
    missing = [name for name in names if name not in known]
    if missing and table.rows:
        raise UserError(
            f"{table.source} has no column {missing[0]!a}; got {', '.join(map(ascii, known[:20])) or 'none'}. "
            f"Name the column to use instead with --columns {missing[0]}=NAME."
        )


def _require_common_prompts(table: Table) -> None:
    """Raises UserError where no pair of dialogues has a prompt in it: then its column has another name."""

    def has_prompt(values: dict[str, Any]) -> bool:
        try:
            normalise_pair(values, explicit=False)
        except RowError as fault:
            return fault.reason != "no common prompt"
        return True

    if table.rows and not any(has_prompt(row.values) for row in table.rows):
        raise UserError(
            f"{table.source} has no column 'prompt', and chosen and rejected share no beginning that could be one; got "
            f"{', '.join(map(ascii, table.column_names[:20]))}. Name the prompts' column with --columns prompt=NAME."
        )


def _clean(
    table: Table,
    normalise: Callable[[dict[str, Any]], dict[str, Any]],
    keep: Callable[[Row, _Seen, Accounting], bool],
    on_bad_row: OnBadRow,
) -> tuple[list[Row], Accounting]:
    accounting = Accounting(table.source, len(table.rows) + len(table.faults), table.blank_lines)
    faults = list(table.faults)
    rows: list[Row] = []
    for row in table.rows:
        try:
            rows.append(Row(normalise(row.values), row.line, row.source))
        except RowError as fault:
            faults.append((row.line, fault))
    settle(faults, accounting, on_bad_row)
    seen = _Seen()
    kept = [row for row in rows if keep(row, seen, accounting)]
    require_rows(kept, accounting)
    return kept, accounting


def settle(faults: Sequence[tuple[int, RowError]], accounting: Accounting, on_bad_row: OnBadRow) -> None:
    """Malformed rows, (line, why) each: "skip" counts them as dropped, "stop" raises a UserError that lists
    the first 20."""
    if on_bad_row not in ("stop", "skip"):
        raise UserError(f"--on-bad-row is stop or skip; got {on_bad_row!a}.")
    placed = sorted(faults, key=lambda fault: fault[0])
    if placed and on_bad_row == "stop":
        raise UserError(_listing(placed, accounting))
    for line, found in placed:
        accounting.drop(found.reason, line)


def require_rows(rows: Sequence[Row], accounting: Accounting) -> None:
    """Raises UserError, with the account, where nothing is left."""
    if not rows:
        raise UserError(f"no usable row is left. {' '.join(accounting.sentences())} Give a file with others.")


def _without(columns: Mapping[str, str] | None, names: Iterable[str]) -> dict[str, str]:
    return {ours: theirs for ours, theirs in (columns or {}).items() if ours not in names}


def _only(columns: Mapping[str, str] | None, names: Iterable[str]) -> dict[str, str]:
    return {ours: theirs for ours, theirs in (columns or {}).items() if ours in names}


def _listing(faults: Sequence[tuple[int, RowError]], accounting: Accounting) -> str:
    """Each detail once, with the lines that it is said of."""
    lines: dict[str, list[int]] = {}
    for line, fault in faults:
        lines.setdefault(fault.detail, []).append(line)
    shown = "; ".join(
        f"{accounting.file}:{numbers[0]} {detail}{_further(numbers[1:])}"
        for detail, numbers in list(lines.items())[:MAX_EXAMPLES]
    )
    left = len(lines) - MAX_EXAMPLES
    more = f"; and {left} other {'reason' if left == 1 else 'reasons'}" if left > 0 else ""
    return (
        f"{len(faults)} of {accounting.read} rows cannot be used: {shown}{more}. "
        "Fix them, or leave them out with --on-bad-row skip."
    )


def _further(lines: Sequence[int]) -> str:
    """Of the same detail: a few numbers, and how many there are beyond."""
    if not lines:
        return ""
    few = ", ".join(map(str, lines[:4]))
    more = f" and {len(lines) - 4} more" if len(lines) > 4 else ""
    return f" (also {'line' if len(lines) == 1 else 'lines'} {few}{more})"


@dataclass
class _Seen:
    """Digests of what earlier rows held: the rows as they stand, and as `normalised_prompt` reads them."""

    exact: set[bytes] = field(default_factory=set)
    near: set[bytes] = field(default_factory=set)
    prompts: set[bytes] = field(default_factory=set)


def _keep_prompt(row: Row, seen: _Seen, accounting: Accounting) -> bool:
    prompt: Text = row.values["prompt"]
    key, near = _digest(prompt), _digest(normalised_prompt(prompt))
    if key in seen.exact:
        accounting.drop("duplicate prompt", row.line)
        return False
    if near in seen.near:
        accounting.note("near-duplicate prompt", row.line)
    seen.exact.add(key)
    seen.near.add(near)
    _note_doubts(row, accounting)
    return True


def _keep_pair(row: Row, seen: _Seen, accounting: Accounting) -> bool:
    prompt, chosen, rejected = (row.values[name] for name in PAIR)
    key = _digest([prompt, chosen, rejected])
    reason = None
    if chosen == rejected:
        reason = "identical chosen and rejected"
    elif _is_empty(chosen):
        reason = "empty chosen"
    elif _is_empty(rejected):
        reason = "empty rejected"
    elif key in seen.exact:
        reason = "exact duplicate pair"
    if reason:
        accounting.drop(reason, row.line)
        return False
    near = [normalised_prompt(text) for text in (prompt, chosen, rejected)]
    keys = {
        "contradicting label": (_digest([prompt, rejected, chosen]), seen.exact),
        "near-duplicate pair": (_digest(near), seen.near),
        "same prompt as an earlier pair": (_digest(near[0]), seen.prompts),
    }
    for said, (found, where) in keys.items():
        if found in where:
            accounting.note(said, row.line)
    seen.exact.add(key)
    seen.near.add(_digest(near))
    seen.prompts.add(_digest(near[0]))
    _note_doubts(row, accounting)
    return True


def _note_doubts(row: Row, accounting: Accounting) -> None:
    prompt: Text = row.values["prompt"]
    if _is_empty(prompt):
        accounting.note("empty prompt", row.line)
    if not isinstance(prompt, str) and prompt[-1]["role"] == "assistant":
        accounting.note("prompt ends with the assistant's words, which responses continue", row.line)
    if isinstance(prompt, str) and _MESSAGES_AS_TEXT.match(prompt):
        accounting.note("prompt is a message list written as text, and taken for text", row.line)


def _is_empty(text: Text) -> bool:
    """Whether there is nothing but white space: real files write a missing answer as a single space."""
    if isinstance(text, str):
        return not text.strip()
    return not any(message["content"].strip() for message in text)


def _digest(value: Any) -> bytes:
    """16 bytes for a whole text, so that what was seen of a large file stays small in memory."""
    canonical = json.dumps(value, sort_keys=True, default=repr)
    return hashlib.blake2b(canonical.encode("utf-8"), digest_size=16).digest()
