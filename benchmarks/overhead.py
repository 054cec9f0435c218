"""What reliability costs: the share of a comparison's time that checkpoints, checks and checksums take.

    python -m benchmarks.overhead                         the default run, one seed an arm
    python -m benchmarks.overhead --checkpoint-every 1    any setting of rlhf-compare

Each of the functions below is timed where it is called; time inside another of them counts once. Docs/reliability.md
holds what this printed.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import run_compare
from algos.engine import calls, loop, storage, trainer
from eval import comparison, store
from eval.directory import integrity, runs
from eval.recording import checkpoints

TIMED: list[tuple[Any, str]] = [
    *((loop, f"check_{what}") for what in ("batch", "gradient", "loss", "responses")),
    (trainer, "check_reference"),
    (calls, "copied"),
    (checkpoints.Checkpoints, "save"),
    *((runs.Run, name) for name in ("begin", "finish")),
    *((integrity.Integrity, name) for name in ("note", "check")),
    (comparison, "check_inputs"),
    *((store, name) for name in ("whole", "read_checked")),
    *((module, "read_checked") for module in (runs, integrity)),
    *((storage, name) for name in ("write_json", "read_json", "read_manifest")),
    (storage.Disk, "sync"),
]


class Stopwatch:
    """Seconds spent in each timed function, those it calls among them included."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.inside = False

    def watch(self, owner: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **keywords: Any) -> Any:
            if self.inside:
                return function(*args, **keywords)
            self.inside, start = True, time.perf_counter()
            try:
                return function(*args, **keywords)
            finally:
                self.inside = False
                self.spent[name] += time.perf_counter() - start

        setattr(owner, name, timed)


def main(arguments: list[str]) -> int:
    watch = Stopwatch()
    for owner, name in TIMED:
        watch.watch(owner, name)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        begun = time.perf_counter()
        status = run_compare.main(["--seeds", "1", "--workers", "1", "--out", str(out), *arguments])
        whole = time.perf_counter() - begun
        training = sum(run.status["seconds"] for run in store.Store.open(out).all_runs)
    print(f"runs {training:.1f} s, the whole comparison {whole:.1f} s")
    for name, seconds in sorted(watch.spent.items(), key=lambda item: -item[1]):
        print(f"{name:16} {seconds:7.3f} s {100 * seconds / training:6.2f}% of the runs")
    total = sum(watch.spent.values())
    print(f"{'together':16} {total:7.3f} s {100 * total / training:6.2f}% of the runs")
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
