"""What became of every row of a file: the counts that the log and the report show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAX_EXAMPLES = 20


@dataclass
class Tally:
    """How many rows a reason concerns, and the lines of the first of them."""

    rows: int = 0
    lines: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        self.rows += 1
        if len(self.lines) < MAX_EXAMPLES:
            self.lines.append(line)


@dataclass
class Accounting:
    """Rows read, kept and dropped, and why. `kept` is what is left, so no row can go without a reason.

    Later steps that leave rows out (too long for the model, ...) add to the same account.
    """

    file: str
    read: int
    blank_lines: int = 0
    dropped: dict[str, Tally] = field(default_factory=dict)
    noted: dict[str, Tally] = field(default_factory=dict)  # kept, but worth knowing

    @property
    def kept(self) -> int:
        """Rows that nothing has dropped."""
        return self.read - sum(tally.rows for tally in self.dropped.values())

    def drop(self, reason: str, line: int) -> None:
        """The row at `line` is left out, for this reason."""
        self.dropped.setdefault(reason, Tally()).add(line)

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
        """The account as JSON: `file`, `read`, `kept`, `blank_lines`, and for each of `reasons` its `rows`,
        example `lines` (the first 20) and whether these were `dropped`."""
        told = [(name, tally, True) for name, tally in self.dropped.items()]
        told += [(name, tally, False) for name, tally in self.noted.items()]
        return {
            "file": self.file,
            "read": self.read,
            "kept": self.kept,
            "blank_lines": self.blank_lines,
            "reasons": {
                name: {"rows": tally.rows, "lines": list(tally.lines), "dropped": dropped}
                for name, tally, dropped in told
            },
        }


def _sentence(reason: str, tally: Tally) -> str:
    lines = ", ".join(map(str, tally.lines)) + (", ..." if tally.rows > len(tally.lines) else "")
    return f"{tally.rows} × {reason} ({'line' if tally.rows == 1 else 'lines'} {lines})."
