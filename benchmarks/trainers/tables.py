"""The tables of docs/benchmarks_rows.md: every row that was measured, and our step by phases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from statistics import median
from typing import TypeVar

from benchmarks.page import markdown
from benchmarks.records import MISSING, spread, title
from benchmarks.trainers.gate import STEP
from benchmarks.trainers.records import Contestant, Part, Phase, Step
from benchmarks.trainers.worlds import SIZES

R = TypeVar("R", bound=Part)
TITLES = {
    "dpo": "DPO", "reinforce": "REINFORCE, leave-one-out", "ppo": "PPO, value head on the trunk",
    "ppo-separate": "PPO, separate value model",
}  # fmt: skip
REST = "all else"
NOTHING = "Nothing was measured yet."


def contest_table(rows: Sequence[Contestant], phases: Sequence[Phase]) -> str:
    """Ours beside TRL's and the floors of our phases, one table a device, precision and number of threads."""
    head = [
        "size", "algorithm", "ours [s]", "TRL [s]", "TRL ÷ ours", "TRL ÷ floors", "ours, peak [MiB]", "TRL, peak [MiB]",
        "ours ÷ TRL",
    ]  # fmt: skip
    floors: dict[Step, float] = defaultdict(float)
    for phase in phases:
        if phase.median:  # else it is done within another
            floors[phase.step] += phase.floor
    return _by_conditions(rows, head, partial(_contest, floors))


def phase_table(rows: Sequence[Phase]) -> str:
    """Our step by phases, beside what each needs at least."""
    head = ["size", "algorithm", "phase", "seconds", "GFLOP", "floor [s]", "bound by", "floor ÷ seconds"]
    return _by_conditions(rows, head, _phases)


def _by_conditions(
    rows: Sequence[R], head: list[str], lines: Callable[[str, str, dict[str, R]], list[list[str]]]
) -> str:
    parts = []
    for _, group in groupby(sorted(rows, key=lambda row: row.conditions), key=lambda row: row.conditions):
        same = list(group)
        cells = [
            line
            for size in SIZES
            for algorithm in TITLES
            if (found := {row.part: row for row in same if (row.size, row.algorithm) == (size, algorithm)})
            for line in lines(size, TITLES[algorithm], found)
        ]
        parts.append(f"{title(same, _conditions(*same[0].conditions))}\n\n{markdown(head, cells)}")
    return "\n\n".join(parts) or NOTHING


def _conditions(device: str, threads: int, dtype: str) -> str:
    return f"{device}; {threads} {'thread' if threads == 1 else 'threads'}; {dtype}"


def _contest(
    floors: Mapping[Step, float], size: str, algorithm: str, found: dict[str, Contestant]
) -> list[list[str]]:
    ours, peer = found.get("ours"), found.get("TRL")
    ratios = [faster(ours, peer), f"{ours.peak_mib / peer.peak_mib:.2f}"] if ours and peer else [MISSING] * 2
    floor = floors.get(peer.step) if peer else None
    most = f"{peer.median / floor:.1f}" if peer and floor else MISSING
    return [[
        size, algorithm, _seconds(ours), _seconds(peer), ratios[0], most, _memory(ours), _memory(peer), ratios[1],
    ]]  # fmt: skip


def faster(ours: Part, peer: Part) -> str:
    """The ratio of the medians, and the range of the ratios of steps that were made one after the other."""
    each = [theirs / mine for mine, theirs in zip(ours.seconds, peer.seconds, strict=True)]
    return f"**{peer.median / ours.median:.2f}** ({min(each):.2f} to {max(each):.2f})"


def _seconds(row: Contestant | None) -> str:
    return spread(row.seconds) if row else MISSING


def _memory(row: Contestant | None) -> str:
    return f"{row.peak_mib:.0f} (before: {row.start_mib:.0f})" if row else MISSING


def _phases(size: str, algorithm: str, found: dict[str, Phase]) -> list[list[str]]:
    parts = [row for name, row in found.items() if name != STEP]
    lines = [
        [
            size, algorithm, row.part, f"{row.median:.3g}", *(
                [f"{row.flops / 1e9:.3g}", f"{row.floor:.3g}", row.binds, f"{row.floor / row.median:.0%}"]
                if row.flops and row.median
                else [MISSING] * 4
            ),
        ]
        for row in parts
    ]  # fmt: skip
    rest = median(
        whole - sum(each)
        for whole, *each in zip(found[STEP].seconds, *(row.seconds for row in parts), strict=True)
    )
    return [*lines, [size, algorithm, REST, f"{rest:.3g}", *[MISSING] * 4]]
