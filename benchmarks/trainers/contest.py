"""Contestants in processes of their own, of which one computes at a time: step by step in turn, so that whatever else
the machine does hits all alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.trainers.floors import Work, needed
from benchmarks.trainers.gate import STEP
from benchmarks.trainers.records import Contestant, Phase
from benchmarks.trainers.worlds import SIZES, Case

ROOT = Path(__file__).parents[2]
PEERS = ROOT / os.environ.get("PEERS", ".venv-peers") / "bin" / "python"
WARM_UP = 2
PHASES = "phases"


def python_of(contestant: str, algorithm: str) -> Path:
    """The environment that has the trainer: PPO is in an older TRL alone."""
    return PEERS if contestant == "TRL" and algorithm.startswith("ppo") else Path(sys.executable)


class Worker:
    """A contestant's process."""

    def __init__(self, case: Case, contestant: str, algorithm: str, errors: Path) -> None:
        self.errors = errors
        self.ready: dict[str, Any] = {}
        command: list[str | Path] = [python_of(contestant, algorithm), "-m", "benchmarks.trainers.worker"]
        command += [case.folder, contestant, algorithm]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(case.threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        with errors.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip

    def wait(self) -> None:
        """Until it is ready to make its first step; keeps what it says of itself then."""
        if not self.ready:
            self.ready = self._answer()

    def step(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{STEP}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a contestant is gone:\n{self.errors.read_text(encoding='utf-8')[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends it: at the end of its input it stops by itself."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def workers(
    case: Case, contestants: Sequence[str], algorithm: str, together: bool = False
) -> Iterator[dict[str, Worker]]:
    """Started one after another, each when the one before it is ready, or all together."""
    with ExitStack() as stack:
        started: dict[str, Worker] = {}
        for name in contestants:
            log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "stderr"
            started[name] = Worker(case, name, algorithm, log)
            stack.callback(started[name].close)
            if not together:
                started[name].wait()
        for worker in started.values():
            worker.wait()
        yield started


def contest(case: Case, algorithm: str, repetitions: int) -> tuple[list[Contestant], list[Phase]]:
    """Ours and TRL's, and ours by phases, but of responses that end early, whose work is not known beforehand. A CPU
    computes for one process at a time from the first to the last; where a GPU does the computing they start together,
    as most of that is done by a core of the CPU for each."""
    names = ["ours", "TRL"]
    if not python_of("TRL", algorithm).is_file():
        print(f"TRL is left out of {algorithm}: `make peers` builds its environment, {PEERS.parents[1].name}")
        names.remove("TRL")
    counted = not SIZES[case.size].ends
    if torch.cuda.is_available() and counted:
        with workers(case, [*names, PHASES], algorithm, together=True) as started:
            phases = split(case, algorithm, started[PHASES], repetitions)
            started.pop(PHASES).close()
            return race(case, algorithm, started, repetitions), phases
    with workers(case, names, algorithm) as started:
        contestants = race(case, algorithm, started, repetitions)
    if not counted:
        return contestants, []
    with workers(case, [PHASES], algorithm) as started:
        return contestants, split(case, algorithm, started[PHASES], repetitions)


def race(case: Case, algorithm: str, started: Mapping[str, Worker], repetitions: int) -> list[Contestant]:
    """In turn, after `WARM_UP` steps of each."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in started}
    for number in range(WARM_UP + repetitions):
        # Each is first as often as it is second.
        for name in started if number % 2 == 0 else reversed(list(started)):
            answers[name].append(started[name].step())
    return [_contestant(case, algorithm, name, started[name], answers[name]) for name in started]


def _contestant(
    case: Case, algorithm: str, name: str, worker: Worker, answers: Sequence[dict[str, Any]]
) -> Contestant:
    ready = worker.ready
    once = sum(ready.get("phases", {}).values()) / case.steps
    return Contestant(
        device=ready["device"], versions=ready["versions"], threads=case.threads, dtype=case.dtype, size=case.size,
        algorithm=algorithm, part=name, seconds=[answer["seconds"] + once for answer in answers[WARM_UP:]],
        start_mib=ready["memory"], peak_mib=max(answer["peak"] for answer in answers),
    )  # fmt: skip


def split(case: Case, algorithm: str, worker: Worker, repetitions: int) -> list[Phase]:
    """Our step by phases, each with the work it needs and the rates that the same process measures between steps."""
    ready = worker.ready
    answers = [worker.step() for _ in range(WARM_UP + repetitions)][WARM_UP:]
    once = {name: seconds / case.steps for name, seconds in ready["phases"].items()}
    spent = [
        Counter(answer["phases"]) + Counter(once) + Counter({STEP: answer["seconds"] + sum(once.values())})
        for answer in answers
    ]
    rates = {name: median(answer["rates"][name] for answer in answers) for name in ready["rates"]}
    work = needed(case, algorithm) | {STEP: Work()}
    return [
        Phase(
            device=ready["device"], versions=ready["versions"], threads=case.threads, dtype=case.dtype, size=case.size,
            algorithm=algorithm, part=part, seconds=[each[part] for each in spent], **asdict(work[part]), **rates,
        )
        for part in work
    ]  # fmt: skip
