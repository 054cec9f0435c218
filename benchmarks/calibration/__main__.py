"""Tries the verdict on itself, and writes its tables in docs/statistics.md: what it claims between runs that do not
differ, and between runs that do.

    python -m benchmarks.calibration --runs DIR   # 800 runs into DIR (0.8 GB), then the tables: 15 minutes on 2 free cores
    python -m benchmarks.calibration --from-csv   # the tables from runs.csv, nothing is trained: 5 minutes

Training is the product's own command with runs.yaml of this folder; a comparison that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.calibration.stored import collect, read
from benchmarks.calibration.tables import TABLES
from benchmarks.page import filled
from eval.store import Store

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CSV = HERE / "runs.csv"
PAGE = ROOT / "docs" / "statistics.md"


def train(comparison: Path, workers: int, cache: Path) -> None:
    """Starts the comparison, or goes on with one that is there. Ends the program where the command fails."""
    asked = ["--resume" if (comparison / "experiment.yaml").is_file() else "--out", str(comparison)]
    options = ["--config", str(HERE / "runs.yaml"), "--workers", str(workers), "--cache", str(cache)]
    status = subprocess.run([sys.executable, "run_compare.py", *options, *asked], cwd=ROOT, check=False)
    if status.returncode:
        sys.exit(f"training ended with status {status.returncode}: see {comparison}.")


def write_tables(workers: int) -> None:
    """Computes every table from runs.csv and puts it in its place."""
    stored = read(CSV)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for name, table in TABLES.items():
            start = time.perf_counter()
            measured = table(stored, pool)
            PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), name, measured), encoding="utf-8")
            print(f"{name}, {time.perf_counter() - start:.0f} s\n\n{measured}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--runs", type=Path, metavar="DIR", help="train into this folder and remake runs.csv")
    source.add_argument("--from-csv", action="store_true", help="train nothing")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/rlhf-compare").expanduser())
    options = parser.parse_args()
    if options.runs:
        train(options.runs.absolute(), options.workers, options.cache.absolute())
        collect(Store.open(options.runs)).to_csv(CSV, index=False)
    write_tables(options.workers)


if __name__ == "__main__":
    main()
