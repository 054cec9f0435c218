"""What became of every row of a file: the counts that the log and the report show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_EXAMPLES = 20


@dataclass
class Tally:
    """How many rows a reason concerns, and the lines of the first of them."""

    rows: int = 0
    lines: list[int] = field(default_factory=list)

    def add(self, line: int | None, rows: int = 1) -> None:
        self.rows += rows
        if line is not None and len(self.lines) < MAX_EXAMPLES:
            self.lines.append(line)


@dataclass
class Accounting:
    """Rows read, kept and dropped, and why. `kept` is what is left, so no row can go without a reason.

    Later steps that leave rows out (too long for the model, ...) add to the same account, and the last one
    says in `uses` where the kept rows went: they add up to `kept`.
    """

    file: str
    read: int
    blank_lines: int = 0
    dropped: dict[str, Tally] = field(default_factory=dict)
    noted: dict[str, Tally] = field(default_factory=dict)  # kept, but worth knowing
    uses: dict[str, int] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        """Rows that nothing has dropped."""
        return self.read - sum(tally.rows for tally in self.dropped.values())

    def drop(self, reason: str, line: int | None = None, rows: int = 1) -> None:
        """The row at `line` is left out for this reason, or that many `rows` whose lines nobody knows."""
        if rows:
            self.dropped.setdefault(reason, Tally()).add(line, rows)

    def note(self, reason: str, line: int) -> None:
        """The row at `line` stays, and this is said of it."""
        self.noted.setdefault(reason, Tally()).add(line)

    def sentences(self) -> list[str]:
        """The account in words, one sentence a reason."""
        told = [f"{self.file}: {self.read} rows read, {self.kept} kept."]
        told += [f"Dropped: {_sentence(reason, tally)}" for reason, tally in self.dropped.items()]
        told += [f"Kept, but noted: {_sentence(reason, tally)}" for reason, tally in self.noted.items()]
        if self.blank_lines:
            told.append(f"Blank lines passed over: {self.blank_lines}.")
        return told

    def as_dict(self) -> dict[str, Any]:
        """The account as JSON: `file`, `read`, `kept`, `uses`, `blank_lines`, and for each of `reasons` its
        `rows`, example `lines` (the first 20) and whether these were `dropped`."""
        told = [(name, tally, True) for name, tally in self.dropped.items()]
        told += [(name, tally, False) for name, tally in self.noted.items()]
        return {
            "file": self.file,
            "read": self.read,
            "kept": self.kept,
            "uses": dict(self.uses),
            "blank_lines": self.blank_lines,
            "reasons": {
                name: {"rows": tally.rows, "lines": list(tally.lines), "dropped": dropped}
                for name, tally, dropped in told
            },
        }


def summary(account: Mapping[str, Any]) -> str:
    """One line for the log, of an account `as_dict`: read, kept and their uses, dropped and noted with reasons."""
    reasons = account["reasons"].items()
    uses = ", ".join(f"{name} {rows:,}" for name, rows in account["uses"].items())
    dropped = ", ".join(f"{told['rows']:,} {name}" for name, told in reasons if told["dropped"])
    noted = ", ".join(f"{told['rows']:,} {name}" for name, told in reasons if not told["dropped"])
    line = f"{account['file']}: {account['read']:,} rows read, {account['kept']:,} kept"
    line += f" ({uses})" if uses else ""
    line += f"; dropped: {dropped}" if dropped else ""
    return line + (f"; noted: {noted}" if noted else "")


def _sentence(reason: str, tally: Tally) -> str:
    if not tally.lines:
        return f"{tally.rows} × {reason}."
    lines = ", ".join(map(str, tally.lines)) + (", ..." if tally.rows > len(tally.lines) else "")
    return f"{tally.rows} × {reason} ({'line' if tally.rows == 1 else 'lines'} {lines})."
