"""Times the whole command and the report over many rows, and writes the last tables of docs/benchmarks.md.

python -m benchmarks.comparison                              everything: about an hour on 2 cores
python -m benchmarks.comparison --only report --rows 10000   one table, or a part of it
python -m benchmarks.comparison --draw                       the tables of what was measured before
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.comparison.commands import COMMANDS, GROWING, HELP, ROOT, comparison, timed
from benchmarks.comparison.records import Timed
from benchmarks.comparison.tables import TABLES
from benchmarks.page import filled

PAGE = ROOT / "docs" / "benchmarks.md"
ROWS = [10_000, 100_000, 1_000_000]


def command(options: argparse.Namespace) -> Iterator[Timed]:
    """The default comparison, whole and in the variants whose differences are the cost of a seed and of an arm."""
    yield timed("command", HELP, ["--help"], 1, options.repetitions)
    for workers in options.workers:
        for name, arguments in COMMANDS.items():
            yield comparison("command", name, arguments, workers, options.repetitions)


def report(options: argparse.Namespace) -> Iterator[Timed]:
    """`rlhf-compare report` over directories of ever more rows."""
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "made"
            subprocess.run(
                [sys.executable, "-m", "benchmarks.comparison.synthetic", made, f"{rows}"],
                cwd=ROOT,
                check=True,
            )
            yield timed("report", f"{rows}", ["report", made], 1, options.repetitions)


def memory(options: argparse.Namespace) -> Iterator[Timed]:
    """One process that makes ever longer runs, and ever more of them."""
    for name, arguments in GROWING.items():
        yield comparison("memory", name, arguments, 1, options.repetitions)


MEASURES = {"command": command, "report": report, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.comparison",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    options = parser.parse_args()
    for name in [] if options.draw else options.only:
        for row in MEASURES[name](options):
            Timed.keep([row])
            print(f"{name}, {row.name}, workers {row.workers}: {row.median:.3g} s", flush=True)
    draw()


def draw() -> None:
    """Fills the page from the file."""
    text, rows = PAGE.read_text(encoding="utf-8"), Timed.read()
    for name, table in TABLES.items():
        text = filled(text, name, table([row for row in rows if row.table == name]))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
