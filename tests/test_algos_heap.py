"""Freed memory stays with the process, where the C library can be told so."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from algos.engine import heap

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


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())
    assert heap.keep_freed.__wrapped__() is False
