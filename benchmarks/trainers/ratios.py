"""The first tables of docs/benchmarks.md: how many times as fast as TRL, in how much of its memory, a table a size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from benchmarks.page import markdown
from benchmarks.records import MISSING
from benchmarks.trainers.phases import UPDATE
from benchmarks.trainers.records import Contestant, Phase
from benchmarks.trainers.tables import NOTHING, TITLES
from benchmarks.trainers.worlds import SIZES
from eval.format import span

NONE = float("inf")
"""Where nothing was to be reached."""


@dataclass(frozen=True)
class Goal:
    """What was to be reached at a size, set before anything was measured. Measured figures meet it as they are shown."""

    faster: tuple[float, ...]
    """TRL's time to ours at least, in the order of `TITLES`."""
    memory: float
    """Our peak to TRL's at most."""
    update: float = NONE
    """An update's floor to its time at least."""

    def line(self) -> list[str]:
        update = MISSING if self.update == NONE else f"≥ {self.update:.0%}"
        return ["*goal*", *(f"≥ {least:g}" for least in self.faster), f"≤ {self.memory:g}", update]


GOALS = {
    "tiny": Goal((3, 2, 6, 4), 0.8),
    "small": Goal((2.2, 2.2, 3, 2), 0.6, 0.7),
    "gpt2": Goal((2, 2, 2.5, 2), 0.5, 0.75),
}
MACHINES = {
    "AMD EPYC, family 25, with AVX2, 2 cores": "AMD Zen 3",
    "AMD EPYC, family 25, with AVX512, 2 cores": "AMD Zen 4",
    "AMD EPYC, family 26, with AVX512, 2 cores": "AMD Zen 5",
    "Intel(R) Xeon(R) Processor, family 6, model 167, with AVX512, 2 cores": "Intel Xeon, model 167",
    "Intel(R) Xeon(R) Processor, family 6, model 207, with AVX512, 2 cores": "Intel Xeon, model 207",
}
"""What people call them; 2 cores each."""
USUAL_THREADS = 2
NO_GOAL = Goal((NONE,) * len(TITLES), -NONE)


def ratio_tables(rows: Sequence[Contestant], phases: Sequence[Phase]) -> str:
    """A table a size, in it a line a machine, precision and number of threads. What meets its goal is bold."""
    head = ["machine, precision", *TITLES.values(), "memory", "update: floor ÷ time"]
    parts = []
    for size in SIZES:
        same = sorted((row for row in rows if row.size == size), key=lambda row: row.conditions)
        lines = [GOALS[size].line()] if size in GOALS else []
        for _, group in groupby(same, key=lambda row: row.conditions):
            found = list(group)
            steps = {row.step for row in found}
            updates = [row for row in phases if row.part == UPDATE and row.step in steps]
            lines.append(_line(GOALS.get(size, NO_GOAL), found, updates))
        if same:
            parts.append(f"`{size}`\n\n{markdown(head, lines)}")
    return "\n\n".join(parts) or NOTHING


def _line(goal: Goal, rows: Sequence[Contestant], updates: Sequence[Phase]) -> list[str]:
    found = {(row.algorithm, row.part): row for row in rows}
    pairs = [(found.get((each, "ours")), found.get((each, "TRL"))) for each in TITLES]
    faster = [f"{peer.median / ours.median:.2f}" if ours and peer else MISSING for ours, peer in pairs]
    memory = sorted(round(ours.peak_mib / peer.peak_mib, 2) for ours, peer in pairs if ours and peer)
    shares = sorted(round(row.floor / row.median, 2) for row in updates)
    return [
        _machine(*rows[0].conditions),
        *(_met(cell, cell != MISSING and float(cell) >= least) for cell, least in zip(faster, goal.faster, strict=True)),
        _met(span([f"{share:.2f}" for share in memory]) or MISSING, bool(memory) and memory[-1] <= goal.memory),
        _met(span([f"{share:.0%}" for share in shares]) or MISSING, bool(shares) and shares[0] >= goal.update),
    ]  # fmt: skip


def _machine(device: str, threads: int, dtype: str) -> str:
    usual = "" if threads == USUAL_THREADS else f", {threads} {'thread' if threads == 1 else 'threads'}"
    return f"{MACHINES.get(device, device)}{usual}, {dtype}"


def _met(cell: str, goal: bool) -> str:
    return f"**{cell}**" if goal else cell
