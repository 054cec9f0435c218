"""The command line in a process of its own, timed from outside.

This process stays small, and imports nothing of the project: what Linux tells of a child's largest memory begins with
its parent's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.comparison.records import Timed
from benchmarks.records import processor, versions

ROOT = Path(__file__).parents[2]
PLAIN = ["--frontier.samples", "0"]
WHOLE, NO_FRONTIER, SEED, ARM, HELP = (
    "the whole command", "without the frontier", "without the frontier, a fourth seed",
    "without the frontier, a fourth arm", "--help",
)  # fmt: skip
EXTRA_ARM = {"more": {"algorithm": "reinforce", "beta": 0.05}}
ARMS = ["reinforce", "ppo", "dpo", *EXTRA_ARM]
COMMANDS = {
    WHOLE: [],
    NO_FRONTIER: PLAIN,
    SEED: [*PLAIN, "--seeds", "4"],
    ARM: [*PLAIN, "--config", "arm.yaml"],
}
"""Arguments of the default comparison; `arm.yaml` is written where it runs."""
SHORT, LONG = 50, 400
ONE_RUN = [*PLAIN, "--algos", "reinforce"]
GROWING = {
    f"one run of {SHORT} updates": [*ONE_RUN, "--seeds", "1", "--budget", f"{SHORT}updates"],
    f"one run of {LONG} updates": [*ONE_RUN, "--seeds", "1", "--budget", f"{LONG}updates"],
    f"eight runs of {SHORT} updates": [*ONE_RUN, "--seeds", "8", "--budget", f"{SHORT}updates"],
}
"""What memory must not grow with, in one worker."""


def timed(table: str, name: str, command: Sequence[str | Path], workers: int, repetitions: int) -> Timed:
    """So many calls of `run_compare.py`, each with an empty folder to write to and an empty cache, if it names them
    as `out` and `cache`."""
    seconds, peaks = [], []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "arm.yaml").write_text(
                yaml.safe_dump({"algos": ARMS, "variants": EXTRA_ARM}), encoding="utf-8"
            )
            spent, peak = _once([sys.executable, ROOT / "run_compare.py", *command], Path(folder))
        seconds.append(spent)
        peaks.append(peak)
    return Timed(
        device=processor(), versions=versions("torch", "transformers", "pandas"), seconds=seconds, table=table, name=name,
        workers=workers, peak_mib=peaks,
    )  # fmt: skip


def comparison(table: str, name: str, arguments: Sequence[str], workers: int, repetitions: int) -> Timed:
    """The default comparison with further arguments, nothing of it cached."""
    places = ["--out", "out", "--cache", "cache", "--workers", str(workers)]
    return timed(table, name, [*arguments, *places], workers, repetitions)


def _once(command: Sequence[str | Path], folder: Path) -> tuple[float, float]:
    """Seconds, and MiB of the largest process. Raises RuntimeError where the command fails."""
    log = folder / "log"
    with log.open("w", encoding="utf-8") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        # Unlike `Popen.wait`, it tells of the memory of the process and of those that it waited for.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(
            f"{command} ended with {process.returncode}:\n{log.read_text(encoding='utf-8')[-3000:]}"
        )
    return seconds, usage.ru_maxrss / 1024
