"""The rows of both tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.records import Record

HERE = Path(__file__).parent
Step = tuple[tuple[str, int, str], str, str]
"""Conditions, size and algorithm."""


@dataclass(frozen=True)
class Part(Record):
    """Seconds of a step, or of a part of one: of every step after the warm-up, in order."""

    KEY = ("device", "threads", "dtype", "size", "algorithm", "part")

    threads: int
    dtype: str
    size: str
    algorithm: str
    part: str
    """The contestant, or the phase of its step."""

    @property
    def conditions(self) -> tuple[str, int, str]:
        return self.device, self.threads, self.dtype

    @property
    def step(self) -> Step:
        return self.conditions, self.size, self.algorithm


@dataclass(frozen=True)
class Contestant(Part):
    """Steps of ours or of TRL's, and the process's memory."""

    FILE = HERE / "measured.csv"

    start_mib: float
    """Before the first step: what was imported, the weights and their copies."""
    peak_mib: float


@dataclass(frozen=True)
class Phase(Part):
    """A part of our step, the least it has to compute and read, and how fast this machine does either."""

    FILE = HERE / "phases.csv"

    flops: float
    bytes: float
    flops_per_second: float
    bytes_per_second: float

    @property
    def floor(self) -> float:
        """Seconds that this work takes at the measured rates."""
        return max(self._by_flops, self._by_bytes)

    @property
    def binds(self) -> str:
        return "FLOPs" if self._by_flops >= self._by_bytes else "bytes"

    @property
    def _by_flops(self) -> float:
        return self.flops / self.flops_per_second

    @property
    def _by_bytes(self) -> float:
        return self.bytes / self.bytes_per_second
