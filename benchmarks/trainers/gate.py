"""Between parent and contestant: one step each time the parent says so, one line of JSON in answer."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

STEP = "step"


class Gate:
    """Called by a contestant before its first step and after each: answers with how long the step took, and holds
    it until the next is asked for. Raises SystemExit where none is."""

    def __init__(self, commands: TextIO, answers: TextIO, describe: Callable[[], dict[str, Any]]) -> None:
        self.commands, self.answers, self.describe = commands, answers, describe
        self.begun: float | None = None

    @classmethod
    def of_process(cls, describe: Callable[[], dict[str, Any]]) -> Gate:
        """On this process's pipes; what libraries print goes to stderr from now on."""
        answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return cls(sys.stdin, answers, describe)

    def __call__(self) -> None:
        synchronise()
        seconds = None if self.begun is None else time.perf_counter() - self.begun
        self.answers.write(json.dumps({"seconds": seconds, **memory(), **self.describe()}) + "\n")
        self.answers.flush()
        if self.commands.readline().strip() != STEP:
            raise SystemExit
        self.begun = time.perf_counter()


def synchronise() -> None:
    """Waits until the device has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def memory() -> dict[str, float]:
    """MiB: this process's resident memory now and at its highest (Linux), or the GPU's that torch allocated."""
    import torch

    if torch.cuda.is_available():
        now, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        return {"memory": now / 2**20, "peak": peak / 2**20}
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return {
        "memory": int(lines["VmRSS"].split()[0]) / 1024,
        "peak": int(lines["VmHWM"].split()[0]) / 1024,
    }
