"""What benchmarks measured, as rows of CSV files beside them. A row replaces the one of the same key."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Self

MISSING = "–"
"""In the place of what was not measured."""


@dataclass(frozen=True)
class Record:
    """One thing, timed several times on one machine."""

    FILE: ClassVar[Path]
    KEY: ClassVar[tuple[str, ...]]
    """Fields that tell one thing from another."""

    device: str
    versions: str
    seconds: list[float]

    @property
    def key(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.KEY)

    @property
    def median(self) -> float:
        return median(self.seconds)

    @classmethod
    def read(cls) -> list[Self]:
        """All rows there are, in the order in which they were first measured."""
        if not cls.FILE.is_file():
            return []
        with cls.FILE.open(encoding="utf-8", newline="") as file:
            return [
                cls(**{f.name: _value(f.type, line[f.name]) for f in fields(cls)})
                for line in csv.DictReader(file)
            ]

    @classmethod
    def keep(cls, rows: Iterable[Self]) -> None:
        """Adds the rows to those there are."""
        kept = {row.key: row for row in cls.read()} | {row.key: row for row in rows}
        with cls.FILE.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(cls)], lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: _text(x) for name, x in asdict(row).items()} for row in kept.values())


def spread(seconds: list[float]) -> str:
    """The median, and the range where there is one."""
    middle = f"{median(seconds):.3g}"
    return middle if len(seconds) == 1 else f"{middle} ({min(seconds):.3g} to {max(seconds):.3g})"


def title(rows: Sequence[Record], conditions: str) -> str:
    """The line above a table: under which conditions its rows were measured, and with which versions."""
    return f"**{conditions}.** {'; '.join(dict.fromkeys(row.versions for row in rows))}."


def processor() -> str:
    """The machine's name for its processor, its family, what vectors torch computes with there, and how many cores
    there are: the same name may stand for processors of several generations, and so may the same vectors."""
    import torch

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = named.get("model name", platform.machine())
    family = f", family {named['cpu family']}," if "cpu family" in named else ""
    if named.get("vendor_id") == "GenuineIntel":  # all of whose processors are of one family
        family += f" model {named['model']},"
    return f"{name}{family} with {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"


def versions(*libraries: str) -> str:
    """`torch 2.13.0 trl 1.16.0`: those that are installed here."""
    return " ".join(f"{name} {version(name)}" for name in libraries)


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(f"{x:.6g}" for x in value)
    return f"{value:.6g}" if isinstance(value, float) else value


def _value(kind: Any, text: str) -> Any:
    """Annotations are strings where they are not evaluated."""
    if kind == "list[float]":
        return [float(part) for part in text.split()]
    return {"int": int, "float": float}.get(kind, str)(text)
