"""What the command line shows without running anything: help, lists, what would run, and whether it fits into memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from run_world import refusal
from small_world import SmallWorld

from eval.memory import room
from eval.memory.footprint import Need
from run_compare import main

ROOT = Path(__file__).parents[1]


def test_list_and_dry_run(small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("reinforce", "ppo", "dpo", "reviews", "reward/judge"))
    out = tmp_path / "dry"
    assert main([*small.arguments(out), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "parameters" in shown
    assert "there already" not in shown
    peaks = [
        line.split()[-1] for line in shown.partition("Memory a run needs")[2].splitlines() if "(" in line
    ]
    assert len(peaks) == 3
    assert all(float(peak) > 0.3 for peak in peaks)  # the process itself
    assert not out.exists()
    assert main([*small.arguments(out), "--dry-run", "--sweep", "clip_range=0.1,0.3", "--tune", "4"]) == 0
    shown = capsys.readouterr()
    assert all(name in shown.out for name in ("reinforce ", "ppo-clip-range-0.1", "ppo-clip-range-0.3"))
    assert "tuned first: reinforce, ppo-clip-range-0.1, ppo-clip-range-0.3, dpo; 4 tries of each" in shown.out
    assert "no clip_range to sweep in reinforce, dpo" in shown.err
    assert not out.exists()


def test_what_cannot_fit_is_refused_before_anything_is_written(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What the process holds grows from call to call, and what is refused twice is to be the same.
    monkeypatch.setattr(room, "_resident", lambda: 2**30)
    monkeypatch.setattr(room, "available", lambda _: 2**20)
    out = tmp_path / "large"
    assert main(small.arguments(out)) == 2
    line = refusal(capsys.readouterr().err)
    assert re.search(r"needs about [\d.]+ GiB of memory, and 0\.0 GiB are free\. Neither --lora", line)
    assert not out.exists()
    assert main([*small.arguments(out), "--dry-run"]) == 2
    shown = capsys.readouterr()
    assert refusal(shown.err) == line
    assert "Memory a run needs" in shown.out
    assert "What would run" in shown.out


def test_several_runs_at_once_that_do_not_fit_would_one_by_one(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "_resident", lambda: 2**30)
    monkeypatch.setattr(room, "available", lambda _: 4 * 2**30)
    for workers, seeds, status in ((8, 1, 0), (8, 2, 2), (3, 2, 0)):  # three arms, so three runs a seed
        asked = [*small.arguments(tmp_path / "x", workers=workers), "--seeds", str(seeds), "--dry-run"]
        assert main(asked) == status
    assert "6 runs at once, needs" in (line := refusal(capsys.readouterr().err))
    assert line.endswith("It would fit with --workers 1.")


@pytest.mark.usefixtures("sketched")
def test_what_cannot_be_estimated_is_not_refused(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise NotImplementedError("no such tensor")

    monkeypatch.setattr(room, "need_of", fails)
    assert main([*small.arguments(tmp_path / "x"), "--dry-run"]) == 0
    assert "how much memory a run needs cannot be told: no such tensor" in capsys.readouterr().err
    once = ["--algos", "reinforce", "--seeds", "1", "--budget", "1iterations", "--frontier.samples", "0"]
    assert main([*small.arguments(tmp_path / "x"), *once]) == 0


def test_help_says_whose_defaults_it_shows_and_what_options_are(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for args in (["--help"], ["--help", "--task", "custom"]):
        with pytest.raises(SystemExit):
            main(args)
        shown.append(re.sub(r"[\s│]+", " ", capsys.readouterr().out))
    for words in ("dtype", "device", "temperature", "prompts-per-iteration", "max-new-tokens",
                  "eval.top-p", "eval.top-k", "ppo.dual-clip", "ppo.value-clip-range", "reward-model.epochs",
                  "reward-model.learning-rate", "reward-model.batch-size"):  # fmt: skip
        assert re.search(rf" --{words} \S+ (?!\(default)", shown[0]), words
    assert "add --task custom (or --model) to see those for your own data" in shown[0]
    assert "5e11flops" in shown[0]
    assert "5e11flops" not in shown[1]


@pytest.mark.parametrize("option", ["--help", "--list"])
def test_a_reader_that_leaves_is_no_error(option: str) -> None:
    """`rlhf-compare --help | head`"""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, str(ROOT / "run_compare.py"), option]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_the_command_line_does_not_load_what_estimates_memory() -> None:
    loaded = "import sys, run_compare; print([name for name in sys.modules if name.startswith(('eval.memory', 'eval.plan'))])"
    found = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, cwd=ROOT)  # fmt: skip
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--reward", "{rewards}d.py:score"], "there is no Python file"),
        (
            ["--reward", "{rewards}.py:nope"],
            "has no function 'nope' for the reward. It has compares, dies, later,",
        ),
        (["--judge", "{rewards}.py:strikt"], "has no function 'strikt' for the judge. Did you mean strict?"),
        (["--judge", "{rewards}.py"], "a judge function is named file.py:function; got"),
        (["--judge", "{rewards}.py:score", "--reward", "{rewards}.py:scroe"], "Did you mean score?"),
        (["--log-with", "wandb"], "--log-with wandb needs the package wandb, which is not installed."),
    ],
)
def test_what_the_comparison_would_refuse_at_once_is_refused_before(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    change: list[str], message: str,
) -> None:  # fmt: skip
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("eval.recording.trackers.distribution", missing)
    named = [text.format(rewards=small.folder / "rewards") for text in change]
    said = []
    for more in (["--dry-run"], []):
        assert main([*small.arguments(tmp_path / "never"), *named, *more]) == 2
        said.append(refusal(capsys.readouterr().err))
    assert message in said[0]
    assert said[0] == said[1]
    assert not (tmp_path / "never").exists()


def test_what_would_run_is_shown_without_running_the_rewards_file(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "need_of", lambda *_: Need({}, {"training": 0}))  # takes seconds
    file = tmp_path / "mine.py"
    file.write_text("def score(**_): ...\nraise SystemExit(9)\n", encoding="utf-8")
    for spec in (f"{file}:score", small.model):
        assert main([*small.arguments(tmp_path / "never"), "--reward", spec, "--dry-run"]) == 0
