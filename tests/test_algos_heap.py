"""What the process keeps: freed memory, where the C library can be told so, and no kernels of every shape there was."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from algos.engine.fast import heap

PROGRAM = """
import runpy, sys

def resident():
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

if sys.argv[2] == "keep":
    assert runpy.run_path(sys.argv[1])["keep_freed"]()
large = bytearray(b"x" * 2**20) * 256
held = resident()
del large
print((held - resident()) // 1024)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
@pytest.mark.parametrize("keep", [True, False])
def test_what_is_freed_stays(keep: bool) -> None:
    command = [sys.executable, "-c", PROGRAM, str(Path(heap.__file__)), "keep" if keep else "leave"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    given_back = int(done.stdout)
    assert given_back < 8 if keep else given_back > 200


SHAPES = """
import sys
import runpy

import torch

def resident():
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

if sys.argv[2] == "keep":
    runpy.run_path(sys.argv[1])["keep_few_kernels"]()
multiply, weight = torch.ops.mkldnn._linear_pointwise, torch.ones(384, 128)
before = resident()
for rows in range(500, 900):
    multiply(torch.ones(rows, 128), weight, None, "none", [], "")
print((resident() - before) // 1024)
"""


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX512"),
    reason="kernels of other processors are smaller",
)
def test_kernels_of_many_shapes_are_not_kept() -> None:
    """400 of them: a training on texts of many lengths has no fewer."""
    of_caches = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"}
    environment = {name: value for name, value in os.environ.items() if name not in of_caches}

    def growth(how: str) -> int:
        command = [sys.executable, "-c", SHAPES, str(Path(heap.__file__)), how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return int(done.stdout)

    assert growth("keep") < growth("leave") / 2


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())
    assert heap.keep_freed.__wrapped__() is False
