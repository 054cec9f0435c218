"""The tables of whole commands, from the rows that were measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from statistics import median

from benchmarks.comparison.commands import ARM, COMMANDS, HELP, NO_FRONTIER, SEED
from benchmarks.comparison.records import Timed
from benchmarks.page import markdown, signed
from benchmarks.records import MISSING, spread, title


def command_table(rows: Sequence[Timed]) -> str:
    """Whole commands, and what a further seed and a further arm add to one, by the number of workers."""
    workers = sorted({row.workers for row in rows})
    heads = [f"{n} {'worker' if n == 1 else 'workers'}" for n in workers]
    head = ["command", *(f"{each} [s]" for each in heads), *(f"{each}, peak [MiB]" for each in heads)]
    found = {(row.name, row.workers): row for row in rows}
    lines = [
        [
            name,
            *(_seconds(found.get((name, n))) for n in workers),
            *(_peak(found.get((name, n))) for n in workers),
        ]
        for name in [*COMMANDS, HELP]
    ]
    for words, name in (("one more seed costs", SEED), ("one more arm costs", ARM)):
        more = [_added(found.get((name, n)), found.get((NO_FRONTIER, n))) for n in workers]
        lines.append([words, *more, *[""] * len(workers)])
    return markdown(head, lines)


def report_table(rows: Sequence[Timed]) -> str:
    by_size = sorted(rows, key=lambda row: int(row.name))
    lines = [[f"{int(row.name):,}", _seconds(row), _peak(row)] for row in by_size]
    return markdown(["rows", "seconds", "peak [MiB]"], lines)


def memory_table(rows: Sequence[Timed]) -> str:
    return markdown(
        ["command", "seconds", "peak [MiB]"], [[row.name, _seconds(row), _peak(row)] for row in rows]
    )


def _by_machine(table: Callable[[Sequence[Timed]], str]) -> Callable[[Sequence[Timed]], str]:
    """One table a machine, under its name."""

    def tables(rows: Sequence[Timed]) -> str:
        groups = [
            list(group) for _, group in groupby(sorted(rows, key=lambda r: r.device), lambda r: r.device)
        ]
        shown = "\n\n".join(f"{title(same, same[0].device)}\n\n{table(same)}" for same in groups)
        return shown or "Not measured yet."

    return tables


TABLES = {
    "command": _by_machine(command_table),
    "report": _by_machine(report_table),
    "memory": _by_machine(memory_table),
}


def _seconds(row: Timed | None) -> str:
    return spread(row.seconds) if row else MISSING


def _peak(row: Timed | None) -> str:
    return f"{median(row.peak_mib):.0f}" if row else MISSING


def _added(more: Timed | None, plain: Timed | None) -> str:
    return signed(more.median - plain.median) if more and plain else MISSING
