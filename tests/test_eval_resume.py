"""A comparison that is stopped, killed or failed by its disk at any moment, and gone on with, is the one that never was.

The few of these that take seconds run every day; the campaign is `make faults`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import (
    FAULTS,
    FailingDisk,
    Fault,
    Kills,
    again,
    first,
    killed_and_resumed,
    lines,
    operations,
    start,
    until,
)
from outcomes import report, same
from small_world import SmallWorld

from algos.engine.storage import saved_states


@pytest.fixture(scope="module")
def boundaries(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> int:
    count = operations(small, tmp_path_factory.mktemp("counted") / "out")
    assert count > 300  # every write, sync, rename, truncation and removal of three runs
    return count


# The disk ------------------------------------------------------------------------------------------------


def at_boundary(small: SmallWorld, out: Path, never_stopped: Path, n: int, fault: Fault, log: Path) -> None:
    status = start(first(small, out), FailingDisk(n, fault, out)).wait()
    said = log.read_text(encoding="utf-8")
    if fault in ("ENOSPC", "EIO"):
        assert status == 2
        assert [line for line in said.splitlines() if line.startswith("error: ")] != []
    assert "Traceback" not in said
    log.unlink()
    assert start(again(small, out)).wait() == 0
    same(out, never_stopped)


@pytest.mark.parametrize(("share", "fault"), [(0.2, "crash"), (0.4, "ENOSPC"), (0.6, "power"), (0.8, "EIO")])
def test_a_failing_disk(
    small: SmallWorld,
    tmp_path: Path,
    never_stopped: Path,
    boundaries: int,
    log: Path,
    share: float,
    fault: Fault,
) -> None:
    at_boundary(small, tmp_path / "out", never_stopped, int(share * boundaries), fault, log)


@pytest.mark.faults
@pytest.mark.parametrize("shift", range(len(FAULTS)))
def test_a_disk_that_fails_at_every_operation(
    small: SmallWorld, tmp_path: Path, never_stopped: Path, boundaries: int, log: Path, shift: int
) -> None:
    """Each shift goes through every operation, the faults taking turns; all of them together try each at each."""
    for n in range(1, boundaries + 1):
        at_boundary(small, tmp_path / "out", never_stopped, n, FAULTS[(n + shift) % len(FAULTS)], log)
        shutil.rmtree(tmp_path / "out")
    print(f"shift {shift}: {boundaries} of {boundaries} operations")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own whose size can be set; skipped where it cannot be mounted."""
    place = tmp_path / "disk"
    place.mkdir()

    def of_size(size: str) -> Path:
        if place.is_mount():
            mount("-o", f"remount,size={size}")
        else:
            mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")
        return place

    def mount(*options: str) -> None:
        if (
            shutil.which("mount") is None
            or subprocess.run(["mount", *options, str(place)], check=False).returncode
        ):
            pytest.skip("no file system can be mounted here: that takes the superuser")

    yield of_size
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.faults
def test_a_disk_that_is_really_full(
    small: SmallWorld, never_stopped: Path, log: Path, small_disk: Callable[[str], Path]
) -> None:
    sizes = range(40, 640, 12)
    for kilobytes in sizes:
        out = small_disk(f"{kilobytes}k") / "out"
        assert start(first(small, out)).wait() in (0, 2)
        small_disk("64m")
        assert start(again(small, out)).wait() == 0
        same(out, never_stopped)
        assert "Traceback" not in log.read_text(encoding="utf-8")
        shutil.rmtree(out)
    print(f"full disk: {len(sizes)} of {len(sizes)} sizes")


# Kills ---------------------------------------------------------------------------------------------------


def test_kills(small: SmallWorld, tmp_path: Path, never_stopped: Path, log: Path) -> None:
    luck, kills = random.Random(1), Kills()
    for number in range(2):
        killed_and_resumed(small, tmp_path / f"{number}", luck, 1.5, kills)
        same(tmp_path / f"{number}", never_stopped)
    assert kills.kills >= 1
    assert "Traceback" not in log.read_text(encoding="utf-8")


@pytest.mark.faults
def test_two_hundred_kills(small: SmallWorld, tmp_path: Path, never_stopped: Path, log: Path) -> None:
    luck, kills = random.Random(0), Kills()
    begun = time.monotonic()
    assert start(first(small, tmp_path / "timed")).wait() == 0
    length = time.monotonic() - begun
    expected, reports = report(never_stopped, tmp_path / "report"), 0
    while kills.kills < 200 or kills.saving < kills.kills / 4:
        out = tmp_path / f"{kills.comparisons}"
        killed_and_resumed(small, out, luck, length, kills)
        same(out, never_stopped)
        if kills.comparisons % 10 == 1:  # it is a function of what `same` compares, and takes seconds to draw
            assert report(out, out / "drawn") == expected
            reports += 1
        assert "Traceback" not in log.read_text(encoding="utf-8")
        shutil.rmtree(out)
    print(
        f"{kills.kills} kills in {kills.comparisons} comparisons, {kills.saving} of them inside a save; "
        f"{reports} reports drawn and compared"
    )


def test_workers_end_with_their_parent_and_the_rest_is_made(
    small: SmallWorld, tmp_path: Path, log: Path
) -> None:
    """kill -9 of the parent alone: a worker that went on would write beside whoever resumes."""
    out, straight = tmp_path / "out", tmp_path / "straight"
    more = ["--budget", "20iterations", "--algos", "reinforce", "ppo", "--workers", "2"]
    assert start([*first(small, straight), *more, "--workers", "1"]).wait() == 0
    child = start([*first(small, out), *more])
    until(
        lambda: all(lines(out / "runs" / f"{arm}-s0" / "events.jsonl") > 3 for arm in ("reinforce", "ppo")),
        child,
    )
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert start(again(small, out)).wait() == 0
    same(out, straight)


# Ctrl-C --------------------------------------------------------------------------------------------------


LONG = ("--budget", "60iterations", "--algos", "reinforce", "dpo", "--checkpoint-every", "1e7")
"""No checkpoint but the one that the signal asks for, and time to send it."""


@pytest.fixture(scope="module")
def straight(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The long comparison, made in one go."""
    out = tmp_path_factory.mktemp("straight") / "out"
    assert start(first(small, out, *LONG)).wait() == 0
    return out


@pytest.mark.parametrize(
    ("workers", "number", "send"),
    [(1, signal.SIGINT, os.kill), (2, signal.SIGTERM, os.killpg)],
)
def test_ctrl_c_once_saves_and_says_how_to_go_on(
    small: SmallWorld,
    tmp_path: Path,
    straight: Path,
    log: Path,
    workers: int,
    number: signal.Signals,
    send: Callable[[int, signal.Signals], None],
) -> None:
    """To the command alone, and as batch systems do it to all of its processes."""
    out = tmp_path / "out"
    child = start(first(small, out, *LONG, "--workers", str(workers)))
    os.setpgid(child.pid, child.pid)
    until(lambda: lines(out / "runs" / "reinforce-s0" / "events.jsonl") > 3, child)
    send(child.pid, number)
    assert child.wait() == 130
    said = log.read_text(encoding="utf-8")
    assert "finished and saved. Ctrl-C again stops at once" in said
    assert f"Go on with: rlhf-compare --resume {out}" in said
    assert "Traceback" not in said
    run = out / "runs" / "reinforce-s0"
    (saved,) = saved_states(run / "checkpoint")
    assert int(saved.name) == lines(run / "events.jsonl") >= 4
    assert not (run / "status.json").exists()
    assert start(again(small, out)).wait() == 0
    same(out, straight)


def test_ctrl_c_twice_stops_at_once(small: SmallWorld, tmp_path: Path, log: Path) -> None:
    """In the middle of a call of the reward that would take a minute."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import pathlib, time\n"
        "def score(prompts, completions, **_):\n"
        f"    file = pathlib.Path({str(tmp_path / 'calls')!r})\n"
        "    calls = int(file.read_text()) + 1 if file.exists() else 1\n"
        "    file.write_text(str(calls))\n"
        "    time.sleep(60 if calls > 3 else 0)\n"
        "    return [float(len(text)) for text in completions]\n",
        encoding="utf-8",
    )
    arguments = first(small, tmp_path / "out", "--algos", "reinforce")
    arguments[arguments.index("--reward") + 1] = f"{slow}:score"
    child = start(arguments)
    until(lambda: (tmp_path / "calls").is_file() and (tmp_path / "calls").read_text() == "4", child)
    begun = time.monotonic()
    for _ in range(2):
        os.kill(child.pid, signal.SIGINT)
        time.sleep(0.5)
    assert child.wait() == 130
    assert time.monotonic() - begun < 20
    assert f"--resume {tmp_path / 'out'}" in log.read_text(encoding="utf-8")


# One writer ----------------------------------------------------------------------------------------------


def test_two_processes_cannot_write_one_comparison(small: SmallWorld, tmp_path: Path, log: Path) -> None:
    out = tmp_path / "out"
    child = start([*first(small, out), "--budget", "5000iterations"])
    until(lambda: lines(out / "runs" / "reinforce-s0" / "events.jsonl") > 0, child)
    other = tmp_path / "other.txt"
    os.environ["FAULTS_LOG"] = str(other)
    assert start(["--resume", str(out), "--cache", small.cache]).wait() == 2
    said = [line for line in other.read_text(encoding="utf-8").splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert f"{out} is being written by process {child.pid}" in said[0]
    child.kill()  # a lock ends with its process, however that ends
    child.wait()
    resumed = start(["--resume", str(out), "--cache", small.cache, "--workers", "1"])
    until(lambda: lines(out / "runs" / "reinforce-s0" / "events.jsonl") > 20, resumed)
    resumed.kill()
    resumed.wait()
