"""What the machine says of itself and of a run: peak memory, versions, hardware. Never the environment's secrets."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from algos.engine.errors import without_secrets
from algos.engine.fast.processor import processor
from algos.engine.versions import installed

PACKAGES = (
    "rlhf-compare", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors",
    "numpy", "pandas", "scipy", "statsmodels", "matplotlib", "seaborn", "sacrebleu", "pydantic", "tyro", "optuna",
)  # fmt: skip


class PeakMemory:
    """Peak memory from now on: resident memory of this process on a CPU, allocated memory on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):  # elsewhere the peak of the whole process is what can be had
                Path("/proc/self/clear_refs").write_text("5")  # Linux: start the high-water mark anew

    def mebibytes(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))
        except (OSError, StopIteration):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak / (2**20 if sys.platform == "darwin" else 2**10)


def environment(command: str, threads_per_run: int, workers: int) -> dict[str, Any]:
    """Versions, hardware, commit and command: what repeating a comparison needs to know."""
    return {
        "command": without_secrets(command),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
        "hardware": {
            "platform": platform.platform(),
            "processor": processor().name,
            "cores": os.cpu_count(),
            "gpus": _gpus(),
        },
        "threads": threads_per_run,
        "workers": workers,
        "commit": _commit(),
    }


def _gpus() -> list[str]:
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _commit() -> str:
    """The commit of the code that ran, with `+` where the working tree differed; empty outside a checkout. Reports are
    what code makes: drawing the kept one again changes none."""
    code = (":/", ":(top,exclude)reports")
    try:
        head, changed = (
            _git("rev-parse", "--short=12", "HEAD"),
            _git("status", "--porcelain", "-uno", "--", *code),
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    """What git says of the checkout that this file lies in."""
    said = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
    )
    return said.stdout.strip()
