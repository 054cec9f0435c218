"""Faults on purpose: a disk that fails or dies at one operation, a process that is killed.

A comparison is carried out in a forked child, so that a crash is the end of a real process: locks are released,
nothing is cleaned up, and what the libraries cost to import is paid once.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from small_world import SmallWorld

from algos.engine import storage

Fault = Literal["crash", "power", "ENOSPC", "EIO"]
FAULTS: tuple[Fault, ...] = ("crash", "power", "ENOSPC", "EIO")
CRASHED = 77


class FailingDisk(storage.Disk):
    """The n-th operation fails: an error is raised, or the process ends, half of what was to be written being there.

    `power` ends it as a power failure does: of what was written only what had been synced is kept.
    """

    def __init__(self, n: int, fault: Fault, root: Path) -> None:
        self.left, self.fault, self.root = n, fault, root
        self.synced: dict[int, int] = {}  # inode → bytes that survive

    def write(self, path: Path, data: bytes) -> None:
        self._operation(lambda: path.write_bytes(data[: len(data) // 2]))
        super().write(path, data)

    def write_tensors(self, path: Path, tensors: Any, metadata: Any) -> None:
        self._operation(lambda: path.write_bytes(b"\x08\x00\x00"))
        super().write_tensors(path, tensors, metadata)

    def append(self, path: Path, data: bytes) -> None:
        def half() -> None:
            with path.open("ab") as file:
                file.write(data[: len(data) // 2])

        self._operation(half)
        super().append(path, data)

    def sync(self, path: Path) -> None:
        self._operation()
        super().sync(path)
        if path.is_file():
            self.synced[path.stat().st_ino] = path.stat().st_size

    def rename(self, path: Path, target: Path) -> None:
        self._operation()
        super().rename(path, target)

    def truncate(self, path: Path, size: int) -> None:
        self._operation()
        super().truncate(path, size)

    def remove(self, path: Path) -> None:
        if path.exists():
            self._operation()
        super().remove(path)

    def _operation(self, half: Callable[[], object] = lambda: None) -> None:
        self.left -= 1
        if self.left:
            return
        half()
        if self.fault in ("ENOSPC", "EIO"):
            number = getattr(errno, self.fault)
            raise OSError(number, os.strerror(number))
        if self.fault == "power":
            self._lose_what_was_not_synced()
        os._exit(CRASHED)

    def _lose_what_was_not_synced(self) -> None:
        for path in self.root.rglob("*"):
            if path.is_file() and not path.is_symlink() and ".locks" not in path.parts:
                kept = self.synced.get(path.stat().st_ino)
                # What an earlier process wrote is long on the disk; what this one wrote and did not sync is not.
                if kept is not None and kept < path.stat().st_size:
                    os.truncate(path, kept)
                elif kept is None and path.stat().st_mtime >= _BEGAN:
                    os.truncate(path, 0)


_BEGAN = time.time()


class CountingDisk(FailingDisk):
    """Counts the operations, none of which fails."""

    def __init__(self) -> None:
        super().__init__(0, "crash", Path())

    @property
    def count(self) -> int:
        return -self.left


def use(disk: storage.Disk) -> None:
    """In this process from now on; every module has the one `disk` object, so it is changed, not replaced."""
    for name in ("write", "write_tensors", "append", "sync", "rename", "truncate", "remove"):
        setattr(storage.disk, name, getattr(disk, name))


# Comparisons -------------------------------------------------------------------------------------------


@dataclass
class Child:
    """A comparison in a forked process. `saving` is 1 while it saves."""

    pid: int
    shared: mmap.mmap

    @property
    def saving(self) -> bool:
        return self.shared[0] == 1

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    @property
    def ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def wait(self) -> int:
        """Exit status; -9 where it was killed."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


def start(arguments: Sequence[str], disk: storage.Disk | None = None) -> Child:
    """`main(arguments)` in a child, on this disk. Memory is not estimated and the report not drawn: they would take most
    of the time."""
    shared = mmap.mmap(-1, 8)
    pid = os.fork()
    if pid:
        return Child(pid, shared)
    status = 99
    try:
        status = _in_child(arguments, disk, shared)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _in_child(arguments: Sequence[str], disk: storage.Disk | None, shared: mmap.mmap) -> int:
    global _BEGAN
    _BEGAN = time.time()
    import eval.comparison
    import eval.recording.checkpoints
    import run_compare

    _speak_to(os.environ.get("FAULTS_LOG", os.devnull))
    run_compare._require_room = lambda options, console: None
    eval.comparison.draw = lambda store: store.path / "report.html"
    run_compare.show_ends = lambda store, console: None
    save = eval.recording.checkpoints.Checkpoints.save

    def watched(self: Any, state: Any) -> None:
        shared[0] = 1
        save(self, state)
        shared[0] = 0

    eval.recording.checkpoints.Checkpoints.save = watched  # type: ignore[method-assign]
    if disk is not None:
        use(disk)
    status = run_compare.main(list(arguments))
    if isinstance(disk, CountingDisk):
        shared[:] = disk.count.to_bytes(8, "little")
    return status


def _speak_to(file: str) -> None:
    """Output, errors and warnings to this file, which pytest would keep to itself."""
    output = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    logging.getLogger().handlers.clear()


def until(holds: Callable[[], bool], child: Child) -> None:
    """Waits for something that a child is about to do."""
    deadline = time.monotonic() + 120
    while not holds():
        assert not child.ended, "it ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def first(small: SmallWorld, out: Path, *more: str) -> list[str]:
    """A comparison of the three algorithms that saves after every iteration and takes a second."""
    return [
        *small.arguments(out, "--seeds", "1", "--budget", "5iterations", "--frontier.samples", "0"),
        "--checkpoint-every", "0", "--reward-retries", "0", *more,
    ]  # fmt: skip


def again(small: SmallWorld, out: Path, *more: str) -> list[str]:
    """The command that makes or goes on with that comparison, whichever is due."""
    if (out / "experiment.yaml").is_file():
        return ["--resume", str(out), "--cache", small.cache, "--workers", "1", *more]
    return first(small, out, *more)


def operations(small: SmallWorld, out: Path) -> int:
    """How many operations on the disk that comparison makes."""
    child = start(first(small, out), CountingDisk())
    assert child.wait() == 0
    return int.from_bytes(child.shared[:], "little")


# Kills -------------------------------------------------------------------------------------------------


@dataclass
class Kills:
    """What a campaign of kills came to."""

    kills: int = 0
    saving: int = 0
    comparisons: int = 0


def killed_and_resumed(
    small: SmallWorld, out: Path, luck: random.Random, length: float, kills: Kills
) -> None:
    """A comparison killed one to three times at random moments, every second time while it saves, then finished."""
    kills.comparisons += 1
    for _ in range(luck.randint(1, 3)):
        child = start(again(small, out))
        deadline = time.monotonic() + luck.random() * length
        in_save = luck.random() < 0.5
        while not child.ended and (time.monotonic() < deadline or (in_save and not child.saving)):
            time.sleep(0.0002)
        time.sleep(luck.random() * 0.004 if in_save else 0)
        saving = child.saving
        child.kill()
        if child.wait() == -signal.SIGKILL:
            kills.kills += 1
            kills.saving += saving
    for _ in range(2):  # finished, and once more: a finished comparison stays what it is
        assert start(again(small, out)).wait() == 0
