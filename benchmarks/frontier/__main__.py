"""Holds trained arms against the frontier and writes the table of docs/frontier.md.

    python -m benchmarks.frontier            # 11 runs, then the table: some minutes on 2 cores
    python -m benchmarks.frontier --draw     # the table of what is in reports/, nothing is run

The comparisons are the product's own command with the files of this folder: rlhf-compare --config FILE --out
reports/frontier-FILE. A comparison that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.page import filled
from eval.format import number
from eval.report.inputs import JUDGE, PROXY
from eval.report.numbers.reachable import Reachable, reachable
from eval.report.sections.reached import share_text
from eval.store import Store

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "frontier.md"
COMPARISONS = {"sweep": "every β", "long": "four times the budget"}


def folder(name: str) -> Path:
    return ROOT / "reports" / f"frontier-{name}"


def run(name: str) -> None:
    """Runs what is missing of one comparison."""
    arguments = (
        ["--resume", str(folder(name))]
        if folder(name).exists()
        else ["--config", str(HERE / f"{name}.yaml"), "--out", str(folder(name))]
    )
    subprocess.run([sys.executable, "run_compare.py", *arguments], cwd=ROOT, check=True)


def table() -> str:
    """One row an arm: where it ended, and what share of the possible gain it has, for both rewards."""
    lines = [
        "| comparison | arm | KL | proxy | left on the table | share of the possible gain | judge | share |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, title in COMPARISONS.items():
        best = reachable(Store.open(folder(name)))
        lines += [f"| {title} | {arm} | {_cells(best, arm)} |" for arm in best[PROXY].arms]
    return "\n".join(lines)


def _cells(best: dict[str, Reachable], arm: str) -> str:
    proxy, judge = best[PROXY].arms[arm], best[JUDGE].arms[arm]
    left = f"{number(proxy.left.mean, 3)} [{number(proxy.left.low, 3)}, {number(proxy.left.high, 3)}]"
    shares = [share_text(best[metric], arm, 1) for metric in (PROXY, JUDGE)]
    return " | ".join([
        number(proxy.kl, 2), number(proxy.reward, 3), left, shares[0], number(judge.reward, 3), shares[1],
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.frontier", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draw", action="store_true", help="run nothing")
    if not parser.parse_args().draw:
        for name in COMPARISONS:
            run(name)
    measured = table()
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), "arms", measured), encoding="utf-8")
    print(measured)


if __name__ == "__main__":
    main()
