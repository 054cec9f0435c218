"""One row of this benchmark: a command, and the memory of its largest process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.records import Record


@dataclass(frozen=True)
class Timed(Record):
    """A command, from its start to its end, imports included."""

    FILE = Path(__file__).parent / "measured.csv"
    KEY = ("device", "table", "name", "workers")

    table: str
    name: str
    workers: int
    peak_mib: list[float]
    """Of the largest of its processes, each time."""
