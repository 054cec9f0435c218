"""The command line, end to end on a tiny model, and what it says to mistakes."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from small_world import SmallWorld

from algos import UserError
from algos.engine.storage import read_json, write_json
from eval.memory import room
from eval.memory.footprint import Need
from eval.store import Store
from run_compare import _unless_mended, main, parse

ROOT = Path(__file__).parents[1]
MEASURED = ("seconds", "memory")


def unmeasured(folder: Path) -> pd.DataFrame:
    """The results without what is measured: the same on every machine state."""
    frame = Store.open(folder).results.drop(columns="seconds")
    return frame[~frame["metric"].str.contains("|".join(MEASURED))].reset_index(drop=True)


def weights(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.glob("runs/*/policy/*.safetensors"))
    }


@pytest.fixture(scope="module")
def finished(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "one"
    assert main(small.arguments(out)) == 0
    return out


def test_a_comparison_ends_in_a_report_and_rows(finished: Path) -> None:
    for name in (
        "report.html",
        "report.md",
        "results.csv",
        "results.parquet",
        "experiment.yaml",
        "environment.json",
    ):
        assert (finished / name).stat().st_size > 0
    frame = Store.open(finished).results
    assert set(frame["arm"]) == {"base", "reinforce", "ppo", "dpo"}
    ends = frame[(frame["metric"] == "reward/judge") & (frame["point"] == 2)]
    assert sorted(zip(ends["arm"], ends["seed"], strict=True)) == [
        (arm, seed) for arm in ("dpo", "ppo", "reinforce") for seed in (0, 1)
    ]
    start = frame[(frame["point"] == 0) & (frame["metric"] == "kl/sequence")]
    assert (start["value"] == 0).all()
    costs = frame[frame["metric"] == "cost/preference_labels"].groupby("arm")["value"].max()
    assert costs["dpo"] > 0
    assert costs["ppo"] == 0  # the reward was given, not learned from pairs
    calls = frame[frame["metric"] == "cost/reward_calls"]
    scored = calls["arm"] == "dpo"
    assert (calls[scored]["value"] == 2 * 64).all()  # before training, for its sampled pairs; none in it
    assert (calls[~scored]["value"] == calls[~scored]["completions"]).all()


def test_saved_policies_load_with_transformers(finished: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(finished / "runs" / "ppo-s0" / "policy")


@pytest.mark.usefixtures("sketched")
def test_two_workers_and_a_second_time_give_the_same(
    small: SmallWorld, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "two"
    assert main(small.arguments(out, workers=2)) == 0
    pd.testing.assert_frame_equal(unmeasured(finished), unmeasured(out), check_exact=True)
    assert weights(finished) == weights(out)
    assert len(weights(out)) == 6


@pytest.mark.usefixtures("sketched")
def test_resume_runs_only_what_is_missing(small: SmallWorld, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "grown"
    short = ["--budget", "2iterations", "--eval.points", "1"]
    assert main([*small.arguments(out, *short), "--algos", "reinforce", "--seeds", "1"]) == 0
    stamp = (out / "runs" / "reinforce-s0" / "status.json").stat().st_mtime_ns
    assert (
        main(
            [
                "--resume",
                str(out),
                "--seeds",
                "2",
                "--algos",
                "+dpo",
                "--cache",
                small.cache,
                "--workers",
                "1",
            ]
        )
        == 0
    )
    assert (out / "runs" / "reinforce-s0" / "status.json").stat().st_mtime_ns == stamp
    assert Store.open(out).materials(0).pairs  # made for the arm that was added
    assert sorted(path.name for path in (out / "runs").iterdir()) == [
        "dpo-s0",
        "dpo-s1",
        "reinforce-s0",
        "reinforce-s1",
    ]


def one_arm(small: SmallWorld, out: Path) -> list[str]:
    """A comparison that was made of one arm, whose prompts are gone; the command that adds one which needs them."""
    asked = parse([*small.arguments(out), "--algos", "reinforce"]).experiment
    Store.create(out, replace(asked, prompts=str(out / "gone.jsonl")))
    return ["--resume", str(out), "--algos", "+dpo", "--cache", small.cache, "--workers", "1"]


def test_an_extension_that_cannot_be_prepared_leaves_the_comparison_as_it_was(
    small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "one"
    extend = one_arm(small, out)
    before = (out / "experiment.yaml").read_bytes()
    assert main(extend) == 2
    assert "there is no file" in capsys.readouterr().err
    assert (out / "experiment.yaml").read_bytes() == before
    assert parse(["--resume", str(out), "--seeds", "5"]).experiment.algos == ("reinforce",)


def stop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a comparison is interrupted before anything is prepared."""

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eval.comparison.materials_of", stopped)


def test_what_is_stopped_before_it_is_extended_is_extended_by_the_same_command(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_at_once(monkeypatch)
    out = tmp_path / "one"
    extend = one_arm(small, out)
    assert main(extend) == 130
    assert capsys.readouterr().err.endswith(f"Go on with: {shlex.join(['rlhf-compare', *extend])}\n")
    plain = [arg for arg in extend if arg not in ("--algos", "+dpo")]
    assert main(plain) == 130
    assert capsys.readouterr().err.endswith(f"Go on with: rlhf-compare --resume {out}\n")


def test_what_trusted_code_goes_on_with_a_command_that_trusts_it(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_at_once(monkeypatch)
    out = tmp_path / "trusting"
    assert main(small.arguments(out, "--trust-remote-code")) == 130
    command = capsys.readouterr().err.rpartition("Go on with: rlhf-compare ")[2]
    assert parse(shlex.split(command)).experiment.trust_remote_code


@pytest.mark.usefixtures("sketched", "forked")
def test_one_failed_run_is_a_row_and_leaves_the_others_alone(
    small: SmallWorld, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reward turns to NaN in the first arm's run; the later ones are in processes of their own."""
    out = tmp_path / "failed"
    arguments = small.arguments(out, "--algos", "reinforce", "dpo", "--seeds", "1", reward="later", workers=2)
    assert main(arguments) == 1
    runs = Store.open(out).runs.set_index("arm")
    assert runs.loc["reinforce", "status"] == "failed"
    assert "returned nan for completion" in runs.loc["reinforce", "error"]
    assert runs.loc["dpo", "status"] == "done"
    rows = pd.read_csv(out / "results.csv")
    assert rows.groupby("arm")["status"].unique().map(list).to_dict() == {
        "base": ["done"],
        "reinforce": ["failed"],
        "dpo": ["done"],
    }
    assert "returned nan" in (out / "report.md").read_text(encoding="utf-8")
    assert "1 of 2 runs failed" in capsys.readouterr().err


@pytest.mark.usefixtures("sketched", "forked")
def test_a_worker_that_dies_fails_its_run_only(small: SmallWorld, tmp_path: Path) -> None:
    out = tmp_path / "died"
    assert main(small.arguments(out, "--algos", "ppo", "dpo", "--seeds", "1", reward="dies", workers=2)) == 1
    runs = Store.open(out).runs.set_index("arm")
    assert "worker process died (exit status 7)" in runs.loc["ppo", "error"]
    assert runs.loc["dpo", "status"] == "done"


@pytest.mark.usefixtures("sketched")
def test_pairs_alone_train_a_reward_model_and_a_judge(small: SmallWorld, tmp_path: Path) -> None:
    out = tmp_path / "pairs"
    arguments = ["--model", small.model, "--pairs", small.pairs, "--out", str(out), "--cache", small.cache, "--workers", "1", "--seeds", "1",
                 "--budget", "2iterations", "--max-new-tokens", "6", "--eval.points", "1", "--learning-rate", "1e-2", "--reward-model.learning-rate", "1e-2",
                 "--prompts-per-iteration", "4", "--dpo.batch-size", "8", "--frontier.samples", "0"]  # fmt: skip
    assert main(arguments) == 0
    facts = Store.open(out).facts
    assert facts["reward_model"]["accuracy"] == 1.0  # "good" against "bad" is not hard
    assert any("disjoint half" in note for note in facts["notes"])
    results = Store.open(out).results
    assert {"bleu", "chrf", "preference_accuracy", "perplexity/heldout"} <= set(results["metric"])


def test_the_report_is_drawn_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    assert main(["report", str(finished)]) == 0
    assert (finished / "report.html").read_bytes() == before
    assert str(finished / "report.html") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "report takes one folder; got 0. Write: rlhf-compare report reports/mine"),
        (["{one}", "{one}"], "report takes one folder; got 2"),
        (["{one}", "--debug", "{one}"], "report takes one folder; got 2"),
        (["{one}", "--frobnicate"], "report has no option --frobnicate; it has --debug and --help."),
        (["--frobnicate", "{one}"], "report has no option --frobnicate"),
        (["{one}", "--debug=yes"], "argument --debug: ignored explicit argument 'yes'. Write:"),
    ],
)
def test_what_report_does_not_take_is_one_line_and_nothing_is_drawn(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:  # fmt: skip
    monkeypatch.setattr("eval.drawing.draw", lambda store: pytest.fail("drawn"))
    asked = [argument.format(one=finished) for argument in arguments]
    if "--debug" in asked:
        with pytest.raises(UserError, match=message):
            main(["report", *asked])
        asked.remove("--debug")
    assert main(["report", *asked]) == 2
    assert refusal(capsys.readouterr().err).startswith(f"error: {message}")


def test_report_has_a_help_of_its_own(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("eval.drawing.draw", lambda store: pytest.fail("drawn"))
    for arguments in (["--help"], [str(finished), "--frobnicate", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(["report", *arguments])
        assert caught.value.code == 0
        assert capsys.readouterr().out.startswith("usage: rlhf-compare report [-h] [--debug] FOLDER\n")


def failing_before_the_runs(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("eval.comparison.materials_of", fails)


def test_a_defect_before_the_first_run_leaves_nothing_in_the_way_of_the_same_command(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_before_the_runs(monkeypatch, TypeError("a defect"))
    monkeypatch.setattr("run_compare._require_room", lambda options, console: None)  # takes seconds
    for _ in range(2):
        with pytest.raises(TypeError, match="a defect"):
            main(small.arguments(tmp_path / "never"))
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE], ids=errno.errorcode.get)
def test_what_the_system_refuses_before_the_first_run_is_told_with_the_way_back(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:  # fmt: skip
    """A pipe that breaks is not always the one that what is printed goes to."""
    failing_before_the_runs(monkeypatch, OSError(number, os.strerror(number)))
    assert main(small.arguments(tmp_path / "never")) == 2
    line = refusal(capsys.readouterr().err)
    assert os.strerror(number) in line
    assert line.endswith("Fix that, and repeat the command.")
    assert not (tmp_path / "never").exists()


def test_a_broken_pipe_that_is_not_the_output_is_no_reader_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("run_compare.parse", broken)
    with pytest.raises(BrokenPipeError):
        main([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--algos", "pqo"], "unknown algorithm 'pqo'; did you mean 'ppo'?"),
        (["--model", "/no/such/model"], "there is no model directory '/no/such/model'"),
        (["--prompts", "/no/such/file.jsonl"], "there is no file"),
        (["--reward", "rewards.py"], "file.py:function"),
        (["--max-new-tokens", "64"], "error: the model has 32 positions and max_new_tokens is 64: no room for a prompt."),
        (["--max-new-tokens", "64", "--on-bad-row", "skip"], "error: the model has 32 positions"),
        (["--device", "cuda:99"], "no such device: cuda:99"),
        (["--budget", "-3k"], "cannot read the budget"),
        (["--seeds", "0"], "seeds must be at least 1"),
        (["--ppo.clip-range", "3"], "clip_range must be in (0, 1)"),
        (["--group-size", "1"], "needs at least 2 responses a prompt"),
        (["--top-p", "0.9"], "got top_p=0.9, top_k=0. Train with 1.0 and 0."),
        (["--top-k", "5", "--algos", "dpo"], "got top_p=1.0, top_k=5. Train with 1.0 and 0."),
        (["--top-p", "0.9", "--dry-run"], "top_p and top_k filter the distribution"),
        (["--config", "/no/such.yaml"], "cannot read /no/such.yaml"),
        (["--resume", "/no/such/folder"], "holds no comparison"),
        (["--workers", "-1"], "--workers must be at least 0"),
        (["--columns", "prompt=question"], "question"),
        (["--reward", "my_reward:score"], "for the reward. A function is named file.py:function"),
        (["--judge", "/no/such:score"], "for the judge. A function is named file.py:function"),
        (["--frontier.samples", "1"], "frontier samples must be 0 (no frontier) or at least 2; got 1"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_status_2(
    small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    out = tmp_path / "never"
    assert main([*small.arguments(out), *change]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not out.exists()  # nothing is left behind that would be in the way of the mended command


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("short", "returned 1 values for"),
        ("raises", "raised KeyError"),
        ("nan", "returned nan for completion"),
        ("scroe", "Did you mean score?"),
    ],
)
def test_a_reward_that_cannot_be_used(
    small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str], reward: str, message: str
) -> None:
    assert main(small.arguments(tmp_path / "never", reward=reward)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "never").exists()


def test_nothing_is_overwritten(
    small: SmallWorld, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(small.arguments(finished)) == 2
    assert f"--resume {finished}" in capsys.readouterr().err
    (tmp_path / "mine.txt").write_text("mine")
    assert main(small.arguments(tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_resuming_with_other_settings_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--resume", str(finished), "--budget", "7iterations"]) == 2
    assert "made with budget = 6iterations; got 7iterations" in capsys.readouterr().err
    assert main(["--resume", str(finished), "--beta", "0.7"]) == 2
    assert "made with hyperparameters" in capsys.readouterr().err


def test_the_stored_settings_repeat_the_comparison(finished: Path) -> None:
    assert parse(["--config", str(finished / "experiment.yaml")]).experiment == Store.open(finished).asked


def test_an_unknown_option_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--sedes", "3"])
    assert caught.value.code == 2
    assert "--seeds" in re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)


def test_debug_shows_where(small: SmallWorld, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown algorithm"):
        main([*small.arguments(tmp_path / "x"), "--algos", "pqo", "--debug"])


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


def refusal(shown: str) -> str:
    (line,) = [line for line in shown.splitlines() if line.startswith("error: ")]
    return line


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
def test_a_comparison_that_is_resumed_is_not_refused(
    finished: Path, small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "available", lambda _: 2**20)
    out = shutil.copytree(finished, tmp_path / "again")
    resumed = ["--resume", str(out), "--cache", small.cache, "--workers", "1"]
    assert main([*resumed, "--dry-run"]) == 0
    assert main(resumed) == 0


def test_what_would_run_of_a_comparison_that_was_begun_is_what_is_missing(
    finished: Path,
    small: SmallWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(room, "need_of", lambda *_: Need({}, {"training": 0}))  # takes seconds
    part = tmp_path / "part"
    shutil.copytree(finished, part)
    shutil.rmtree(part / "runs" / "ppo-s1")
    status = part / "runs" / "dpo-s0" / "status.json"
    write_json(status, read_json(status) | {"status": "failed"})
    before = sorted(part.rglob("*"))

    def shown(*more: str) -> tuple[dict[str, int], str]:
        assert main(["--resume", str(part), "--cache", small.cache, *more, "--dry-run"]) == 0
        would, _, memory = capsys.readouterr().out.partition("Memory a run needs")
        lines = [line.split() for line in would.splitlines()]
        (there,) = (" ".join(line) for line in lines if line[-2:] == ["there", "already"])
        assert "dpo" in memory
        return {line[0]: int(line[2]) for line in lines if line and line[:1] == line[1:2]}, there

    assert shown() == ({"reinforce": 0, "ppo": 1, "dpo": 1}, "4 of 6 runs are there already")
    assert shown("--seeds", "5") == ({"reinforce": 3, "ppo": 4, "dpo": 4}, "4 of 15 runs are there already")
    assert sorted(part.rglob("*")) == before


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
    for words in ("dtype", "device", "temperature", "prompts-per-iteration", "max-new-tokens", "top-p", "top-k",
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


@pytest.mark.usefixtures("sketched")
def test_a_sweep_runs_an_arm_a_value_and_resuming_adds_values(small: SmallWorld, tmp_path: Path) -> None:
    out = tmp_path / "swept"
    short = [
        "--budget",
        "2iterations",
        "--eval.points",
        "1",
        "--frontier.samples",
        "0",
        "--algos",
        "reinforce",
    ]
    seeds = ["--seeds", "1", "--first-seed", "5"]
    assert main([*small.arguments(out, *short), *seeds, "--sweep", "beta=0.05,0.2"]) == 0
    arms = ["reinforce-beta-0.05", "reinforce-beta-0.2"]
    assert sorted(path.name for path in (out / "runs").iterdir()) == [f"{arm}-s5" for arm in arms]
    store = Store.open(out)
    ends = store.results.query("point == 1 and metric == 'kl/sequence'")
    assert ends["value"].nunique() == 2  # another β, another policy
    assert store.asked.variants["reinforce-beta-0.2"] == {"algorithm": "reinforce", "beta": 0.2}
    again = parse(["--resume", str(out), "--sweep", "beta=0.2,1"]).experiment
    assert again.algos == (*arms, "reinforce-beta-1")
    assert {name: again.variants[name] for name in arms} == store.asked.variants


def test_events_are_json_of_finite_numbers(finished: Path) -> None:
    for line in (finished / "runs" / "ppo-s1" / "events.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line, parse_constant=lambda name: pytest.fail(name))
        assert row["fraction"] <= 1


def test_what_a_message_quotes_does_not_drive_the_terminal(
    small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*small.arguments(tmp_path / "x"), "--budget", "3\x1b[31mk"]) == 2
    assert "\x1b" not in capsys.readouterr().err
    assert main([*small.arguments(tmp_path / "x"), "--algos", "p\u202epo"]) == 2
    assert "\u202e" not in capsys.readouterr().err


def test_no_resume_is_proposed_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that failed for their reward or judge may be run again as they are, or the comparison made again."""
    store = Store.create(tmp_path / "out", parse([]).experiment)
    run = store.run("ppo", 0)
    run.finish(
        status="failed",
        error="the judge broken raised KeyError",
        diverged="",
        fraction=0.5,
        updates=1,
        seconds=1.0,
        policy="",
        effective={},
    )
    assert _unless_mended(store, [run]) == ""  # nothing was evaluated: it may be mended
    monkeypatch.setattr(Store, "evaluated", True)
    said = _unless_mended(store, [run])
    assert said.endswith(
        f"make another comparison: rlhf-compare --config {tmp_path / 'out' / 'experiment.yaml'}"
    )
    run.finish(**run.status | {"error": "out of memory"})
    assert _unless_mended(store, [run]) == ""


def test_folders_that_cannot_be_meant_are_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for cache in (file, file / "below"):
        with pytest.raises(UserError, match=r"--cache must be a folder; got .*file is a file"):
            parse(["--cache", str(cache)])
    Store.create(tmp_path / "one", parse([]).experiment)
    with pytest.raises(
        UserError,
        match=r"--resume goes on in .*one; got --out other, too\. .*--config .*one/experiment\.yaml",
    ):
        parse(["--resume", str(tmp_path / "one"), "--out", "other"])
