"""Runs the comparisons behind docs/findings.md and prints their tables and figures.

    python -m benchmarks.findings                     # everything: 83 runs, 25 minutes on 2 busy cores
    python -m benchmarks.findings --only baselines    # one finding: best-betas, dpo-epochs, …
    python -m benchmarks.findings --draw              # tables and figures of what is in reports/, nothing is run

Each comparison is the product's own command with a file of this folder: rlhf-compare --config FILE --out
reports/finding-FILE. A comparison that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from algos import UserError
from benchmarks.findings import figures, tables
from benchmarks.findings.measured import folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@dataclass(frozen=True)
class Finding:
    """Which comparisons it needs (files of this folder), its tables, and its figure."""

    comparisons: list[str]
    tables: Callable[[Path], str]
    figure: Callable[[Path], Figure] | None = None


FINDINGS = {
    "ppo-seeds": Finding(["ppo"], tables.ppo_seeds),
    "baselines": Finding(tables.BASELINES, tables.baselines),
    "ppo-whitening": Finding(["ppo", "ppo-small-batches"], tables.ppo_whitening, figures.ppo_whitening),
    "dpo-epochs": Finding(["dpo"], tables.dpo_epochs, figures.dpo_epochs),
    "over-optimization": Finding(["over-optimization"], tables.over_optimization, figures.over_optimization),
    "best-betas": Finding(tables.BETAS, tables.best_betas, figures.best_betas),
}


def run(comparison: str, reports: Path, workers: int, cache: Path) -> None:
    """Starts a comparison, or goes on with one that is there. Ends the program where the command fails."""
    out = folder(reports, comparison)
    asked = ["--resume" if (out / "experiment.yaml").is_file() else "--out", str(out)]
    options = ["--config", str(HERE / f"{comparison}.yaml"), "--workers", str(workers), "--cache", str(cache)]
    status = subprocess.run([sys.executable, "run_compare.py", *options, *asked], cwd=ROOT, check=False)
    if status.returncode:
        sys.exit(f"{comparison} ended with status {status.returncode}: see {out}.")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.findings", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(FINDINGS), default=list(FINDINGS), metavar="NAME")
    parser.add_argument("--draw", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "reports", help="where the comparisons are")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "figures")
    parser.add_argument("--workers", type=int, default=0, help="0: as many as cores allow")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/rlhf-compare").expanduser())
    options = parser.parse_args()
    chosen = {name: FINDINGS[name] for name in options.only}
    if not options.draw:
        for comparison in dict.fromkeys(name for one in chosen.values() for name in one.comparisons):
            run(comparison, options.out.absolute(), options.workers, options.cache.absolute())
    for name, finding in chosen.items():
        try:
            print(f"\n## {name}\n\n{finding.tables(options.out)}", flush=True)
            if finding.figure is not None:
                figures.save(finding.figure, options.out, options.figures / f"finding-{name}.png")
        except UserError as error:  # a comparison that was not run, with --draw
            print(f"error: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
