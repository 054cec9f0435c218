"""Times ours beside TRL's trainers, and our step by phases, and writes what came out into the docs: the ratios into
docs/benchmarks.md, every row into docs/benchmarks_rows.md.

    python -m benchmarks.trainers                                   every size that the machine is meant for
    python -m benchmarks.trainers --sizes tiny --algorithms dpo     one of them
    python -m benchmarks.trainers --draw                            the tables of what was measured before

`make peers` builds the environment of the last TRL with PPO. Rows that are not measured again stay as they are.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.page import filled
from benchmarks.trainers.contest import WARM_UP, contest
from benchmarks.trainers.ratios import ratio_tables
from benchmarks.trainers.records import Contestant, Phase
from benchmarks.trainers.tables import TITLES, contest_table, faster, phase_table
from benchmarks.trainers.worlds import SIZES, Case

DOCS = Path(__file__).parents[2] / "docs"


def pages(rows: Sequence[Contestant], phases: Sequence[Phase]) -> dict[Path, str]:
    """Each page of the docs that shows them, filled."""
    front, every = DOCS / "benchmarks.md", DOCS / "benchmarks_rows.md"
    text = filled(every.read_text(encoding="utf-8"), "trainers", contest_table(rows, phases))
    return {
        front: filled(front.read_text(encoding="utf-8"), "ratios", ratio_tables(rows, phases)),
        every: filled(text, "phases", phase_table(phases)),
    }


def draw() -> None:
    """Fills the pages from the files."""
    for page, text in pages(Contestant.read(), Phase.read()).items():
        page.write_text(text, encoding="utf-8")


def sizes() -> list[str]:
    """Those that this machine is meant for."""
    import torch

    return [name for name in SIZES if name != "half-billion" or torch.cuda.is_available()]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.trainers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=sizes(), default=sizes())
    parser.add_argument("--algorithms", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--repetitions", type=int, default=5, help="steps that count, after the warm-up")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    options = parser.parse_args()
    for size in [] if options.draw else options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            steps = WARM_UP + options.repetitions
            case = Case.build(Path(folder), size, steps, options.threads, options.dtype)
            for algorithm in options.algorithms:
                measure(case, algorithm, options.repetitions)
    draw()


def measure(case: Case, algorithm: str, repetitions: int) -> None:
    """Both tables' rows of one size and algorithm, kept as soon as they are there."""
    contestants, phases = contest(case, algorithm, repetitions)
    Contestant.keep(contestants)
    Phase.keep(phases)
    medians = ", ".join(f"{row.part} {row.median:.3g} s" for row in contestants)
    ratio = faster(*contestants) if len(contestants) == 2 else ""
    print(f"{case.size}, {TITLES[algorithm]}: {medians} {ratio}", flush=True)


if __name__ == "__main__":
    main()
