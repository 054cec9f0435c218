"""A comparison that is stopped, killed or failed by its disk at any moment, and gone on with, is the one that never was.

The few of these that take seconds run every day; the campaign is `make faults`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import (
    FAULTS,
    Child,
    FailingDisk,
    Fault,
    Kills,
    again,
    damaged,
    files_that_matter,
    first,
    killed_and_resumed,
    operations,
    start,
)
from outcomes import outcome, report
from small_world import SmallWorld

from algos import UserError
from algos.engine.state import versions
from algos.engine.storage import DamagedFile, read_json
from eval.store import Store
from run_compare import main


@pytest.fixture(scope="module")
def never_stopped(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("never") / "stopped"
    assert start(first(small, out)).wait() == 0
    return out


@pytest.fixture(scope="module")
def boundaries(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> int:
    count = operations(small, tmp_path_factory.mktemp("counted") / "out")
    assert count > 300  # every write, sync, rename, truncation and removal of three runs
    return count


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the children say."""
    monkeypatch.setenv("FAULTS_LOG", str(tmp_path / "log.txt"))
    return tmp_path / "log.txt"


def same(out: Path, never_stopped: Path) -> None:
    found, expected = outcome(out), outcome(never_stopped)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert [path.name for path in out.rglob(".*") if ".making-" in path.name] == []


def until(holds: Callable[[], bool], child: Child) -> None:
    """Waits for something that a child is about to do."""
    deadline = time.monotonic() + 120
    while not holds():
        assert not child.ended, "it ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


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
@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_fails_at_every_operation(
    small: SmallWorld, tmp_path: Path, never_stopped: Path, boundaries: int, log: Path, fault: Fault
) -> None:
    for n in range(1, boundaries + 1):
        at_boundary(small, tmp_path / "out", never_stopped, n, fault, log)
        shutil.rmtree(tmp_path / "out")
    print(f"{fault}: {boundaries} of {boundaries} operations")


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
    more = ["--budget", "40iterations", "--algos", "reinforce", "ppo", "--workers", "2"]
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


@pytest.mark.parametrize(("workers", "number"), [(1, signal.SIGTERM), (2, signal.SIGINT)])
def test_ctrl_c_once_saves_and_says_how_to_go_on(
    small: SmallWorld, tmp_path: Path, log: Path, workers: int, number: signal.Signals
) -> None:
    out, straight = tmp_path / "out", tmp_path / "straight"
    # No checkpoint but the one that the signal asks for.
    more = ["--budget", "30iterations", "--algos", "reinforce", "dpo", "--checkpoint-every", "1e9"]
    assert start([*first(small, straight), *more]).wait() == 0
    log.unlink()
    child = start([*first(small, out), *more, "--workers", str(workers)])
    until(lambda: lines(out / "runs" / "reinforce-s0" / "events.jsonl") > 3, child)
    os.kill(child.pid, number)
    assert child.wait() == 130
    said = log.read_text(encoding="utf-8")
    assert "finished and saved. Ctrl-C again stops at once" in said
    assert f"Go on with: rlhf-compare --resume {out}" in said
    assert "Traceback" not in said
    run = out / "runs" / "reinforce-s0"
    (saved,) = versions(run / "checkpoint")
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


# Damage while it was stopped -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_way(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed in its second run, with two checkpoints in it."""
    out = tmp_path_factory.mktemp("half") / "way"
    child = start(first(small, out, "--algos", "reinforce", "ppo"))
    until(lambda: len(versions(out / "runs" / "ppo-s0" / "checkpoint")) == 2, child)
    child.kill()
    child.wait()
    return out


@pytest.mark.parametrize("how", ["changed", "truncated", "removed"])
def test_an_unfinished_run_goes_on_from_what_is_whole(
    small: SmallWorld, tmp_path: Path, half_way: Path, never_stopped: Path, log: Path, how: str
) -> None:
    """Whatever file of it is damaged: from the checkpoint before, or from its beginning."""
    newest = sorted((half_way / "runs" / "ppo-s0" / "checkpoint").glob("[0-9]*"))[-1]
    for name in (
        f"checkpoint/{newest.name}/state.safetensors",
        f"checkpoint/{newest.name}/state.json",
        "events.jsonl",
    ):
        out = tmp_path / name.replace("/", "-")
        shutil.copytree(half_way, out)
        file = out / "runs" / "ppo-s0" / name
        content = file.read_bytes()
        if how == "changed":
            file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        elif how == "truncated":
            file.write_bytes(content[: len(content) // 8])
        else:
            file.unlink()
        log.write_text("", encoding="utf-8")
        assert start(again(small, out)).wait() == 0
        assert str(file) in log.read_text(encoding="utf-8")
        found, expected = outcome(out), outcome(never_stopped)
        names = [name for name in found if name.startswith(("reinforce", "ppo"))]
        assert [name for name in names if found[name] != expected[name]] == []


def noticed(out: Path, file: Path) -> bool:
    """Whether one line names the file."""
    try:
        Store.reading(out)
    except UserError as error:
        return str(out) in str(error) and file.name in str(error) and "\n" not in str(error)
    return False


@pytest.mark.parametrize("how", ["changed", "truncated", "removed"])
def test_damage_to_any_file_is_noticed_by_its_name(never_stopped: Path, how: str) -> None:
    luck = random.Random(how)
    for file in files_that_matter(never_stopped):
        if how == "truncated" and not file.stat().st_size:
            continue
        with damaged(file, how, luck):
            assert noticed(never_stopped, file), file
    Store.reading(never_stopped)


@pytest.mark.faults
def test_a_thousand_damages(never_stopped: Path) -> None:
    luck, files, counts = (
        random.Random(0),
        files_that_matter(never_stopped),
        dict.fromkeys(("changed", "truncated", "removed"), 0),
    )
    for number in range(1000):
        how = ("changed", "changed", "changed", "truncated", "removed")[number % 5]
        file = luck.choice([file for file in files if file.stat().st_size or how != "truncated"])
        with damaged(file, how, luck):
            assert noticed(never_stopped, file), (file, how)
        counts[how] += 1
    Store.reading(never_stopped)
    print(f"1000 of 1000 noticed by name: {counts}, in {len(files)} files")


@pytest.mark.parametrize("unit", ["base", "matches.json", "environment.json", "facts.json", "sources.json"])
def test_what_can_be_made_again_is_missed_and_made_again(
    small: SmallWorld, tmp_path: Path, never_stopped: Path, log: Path, unit: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(never_stopped, out)
    shutil.rmtree(out / unit) if (out / unit).is_dir() else (out / unit).unlink()
    with pytest.raises(DamagedFile, match=f"{unit} was written but is gone"):
        Store.reading(out)
    assert start(again(small, out)).wait() == 0
    assert f"{out / unit} was written but is gone: it is made again" in log.read_text(encoding="utf-8")
    Store.reading(out)
    same(out, never_stopped)


def test_a_run_that_was_removed_is_made_again(
    small: SmallWorld, tmp_path: Path, never_stopped: Path, log: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(never_stopped, out)
    shutil.rmtree(out / "runs" / "ppo-s0")
    assert Store.reading(out).runs.set_index("arm").loc["ppo", "status"] == "missing"
    assert start(again(small, out)).wait() == 0
    assert "ppo-s0 was written but is gone: it is made again" in log.read_text(encoding="utf-8")
    same(out, never_stopped)


def test_materials_that_are_gone_are_not_made_anew(
    small: SmallWorld, tmp_path: Path, never_stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They might be made from other files than the runs that are there."""
    out = tmp_path / "out"
    shutil.copytree(never_stopped, out)
    shutil.rmtree(out / "materials" / "0")
    assert main(again(small, out)) == 2
    assert f"{out / 'materials' / '0'} was written but is gone" in capsys.readouterr().err


# What lies outside ---------------------------------------------------------------------------------------


def test_another_model_or_reward_is_refused(
    small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = SmallWorld(tmp_path / "world")
    shutil.copytree(small.folder, world.folder)
    out = tmp_path / "out"
    assert start(first(world, out, "--algos", "dpo")).wait() == 0
    for file, what in (
        (world.folder / "rewards.py", "reward"),
        (world.folder / "model" / "config.json", "model"),
    ):
        content = file.read_bytes()
        file.write_bytes(content + b"\n")
        assert main(again(world, out)) == 2
        assert f"the {what} " in (said := capsys.readouterr().err)
        assert "is not what this comparison began with" in said
        file.unlink()
        assert main(again(world, out)) == 2
        assert "error: " in capsys.readouterr().err
        file.write_bytes(content)
    assert start(again(world, out)).wait() == 0


def test_data_that_changed_before_an_arm_was_added_are_refused(
    small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new arm needs pairs, which are sampled for the prompts: they must be those of the other arms."""
    world = SmallWorld(tmp_path / "world")
    shutil.copytree(small.folder, world.folder)
    out = tmp_path / "out"
    assert start(first(world, out, "--algos", "reinforce")).wait() == 0
    prompts = Path(world.prompts)
    content = prompts.read_text(encoding="utf-8")
    prompts.write_text("".join(content.splitlines(keepends=True)[5:]), encoding="utf-8")
    assert main(again(world, out, "--algos", "+dpo")) == 2
    assert "the data are not what this comparison began with: train_prompts" in capsys.readouterr().err
    prompts.write_text(content, encoding="utf-8")
    assert start(again(world, out, "--algos", "+dpo")).wait() == 0


def test_an_experiment_that_was_edited_is_refused(
    small: SmallWorld, tmp_path: Path, never_stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(never_stopped, out)
    file = out / "experiment.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("learning_rate: 0.003", "learning_rate: 0.004"))
    assert main(["--resume", str(out)]) == 2
    assert f"{file} is not what was written" in capsys.readouterr().err


def test_how_it_is_carried_out_may_change(small: SmallWorld, tmp_path: Path) -> None:
    """A longer time for the reward, other checkpoints: nothing that a result depends on."""
    out = tmp_path / "out"
    assert start(first(small, out, "--algos", "dpo")).wait() == 0
    assert start(again(small, out, "--reward-timeout", "5", "--checkpoint-every", "7")).wait() == 0
    assert Store.open(out).asked.checkpoint_every == 7
    assert start(again(small, out, "--allow-unscored")).wait() == 2


# A run's own faults --------------------------------------------------------------------------------------


def test_one_bad_run_leaves_the_others_byte_identical(
    small: SmallWorld, tmp_path: Path, never_stopped: Path
) -> None:
    """An arm whose weights explode between two that do not."""
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        "variants: {wild: {algorithm: ppo, learning_rate: 1.0e+30, max_grad_norm: 1.0e+30}}\n"
    )
    out = tmp_path / "out"
    child = start(first(small, out, "--config", str(settings), "--algos", "reinforce", "wild", "ppo", "dpo"))
    assert child.wait() == 1
    runs = Store.reading(out).runs.set_index("arm")
    assert runs.loc["wild", "status"] == "failed"
    assert "is not finite" in runs.loc["wild", "error"]
    assert "iteration" in runs.loc["wild", "error"]
    found, expected = outcome(out), outcome(never_stopped)
    names = [name for name in expected if name.startswith(("reinforce", "ppo", "dpo"))]
    assert [name for name in names if found[name] != expected[name]] == []


def test_the_status_tells_the_effective_settings(never_stopped: Path) -> None:
    """Not `auto`, but what it came to."""
    effective: dict[str, Any] = read_json(never_stopped / "runs" / "ppo-s0" / "status.json")["effective"]
    assert effective["device"] == "cpu"
    assert effective["dtype"] == "float32"
    assert effective["threads"] == 1
    assert effective["algorithm"]["name"] == "ppo"
    assert effective["algorithm"]["learning_rate"] == 3e-3
    assert effective["sampling"]["max_new_tokens"] == 6
    assert effective["parameters"] == effective["trained parameters"] > 1000
