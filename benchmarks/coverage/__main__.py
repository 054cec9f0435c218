"""Measures what the statistics keep of what they promise, and writes the tables of docs/statistics.md.

    python -m benchmarks.coverage                       # all tables, about 7 minutes on a free core
    python -m benchmarks.coverage --only t-intervals    # one table

Every table has random numbers of its own, from its name: the same command writes the same page.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.coverage import claims, intervals, matched, planning, prompts, warnings
from benchmarks.page import filled

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
SEED = 20260301
TABLES: dict[str, Callable[[np.random.Generator], str]] = {
    "t-intervals": intervals.t_intervals,
    "percentile-intervals": intervals.percentile_intervals,
    "interquartile-intervals": intervals.interquartile_intervals,
    "family-errors": claims.family_errors,
    "powers": claims.powers,
    "promises": planning.promises,
    "unseen": warnings.unseen,
    "outliers": warnings.outliers,
    "verdicts": warnings.verdicts,
    "prompt-intervals": intervals.prompt_intervals,
    "base-claims": prompts.base_claims,
    "arm-claims": prompts.arm_claims,
    "between-evaluations": matched.between_evaluations,
}


def table(name: str) -> str:
    """The table of that name, with random numbers that depend on the name alone."""
    return TABLES[name](np.random.default_rng([SEED, *name.encode()]))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.coverage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES), metavar="NAME")
    for name in parser.parse_args().only:
        start = time.perf_counter()
        measured = table(name)
        text = filled(PAGE.read_text(encoding="utf-8"), name, measured)
        PAGE.write_text(text, encoding="utf-8")
        print(f"{name}, {time.perf_counter() - start:.0f} s\n\n{measured}\n", flush=True)


if __name__ == "__main__":
    main()
