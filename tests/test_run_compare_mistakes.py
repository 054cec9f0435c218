"""What the command line says to mistakes, to what the system refuses and to Ctrl-C, and what it leaves behind."""

from __future__ import annotations

import errno
import os
import re
import shlex
from pathlib import Path

import pytest
from run_world import failing_before_the_runs, one_arm, refusal, stop_at_once
from small_world import SmallWorld

from algos import UserError
from eval.store import Store
from run_compare import _unless_mended, main, parse


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


@pytest.mark.parametrize("place", ["run_compare.Console.say", "eval.process.workers.workers_for"])
def test_what_is_stopped_as_soon_as_its_folder_is_there_says_how_to_go_on(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:  # fmt: skip
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("run_compare._require_room", lambda options, console: None)  # takes seconds
    monkeypatch.setattr(place, stopped)
    out = tmp_path / "one"
    assert main(small.arguments(out)) == 130
    assert capsys.readouterr().err.endswith(f"Go on with: rlhf-compare --resume {out}\n")
    assert parse(["--resume", str(out)]).experiment.algos == ("reinforce", "ppo", "dpo")


def test_what_trusted_code_goes_on_with_a_command_that_trusts_it(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_at_once(monkeypatch)
    out = tmp_path / "trusting"
    assert main(small.arguments(out, "--trust-remote-code")) == 130
    command = capsys.readouterr().err.rpartition("Go on with: rlhf-compare ")[2]
    assert parse(shlex.split(command)).experiment.trust_remote_code


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:  # fmt: skip
    monkeypatch.setattr("eval.drawing.draw", lambda store: pytest.fail("drawn"))
    asked = [argument.format(one=tmp_path) for argument in arguments]
    if "--debug" in asked:
        with pytest.raises(UserError, match=message):
            main(["report", *asked])
        asked.remove("--debug")
    assert main(["report", *asked]) == 2
    assert refusal(capsys.readouterr().err).startswith(f"error: {message}")


def test_report_has_a_help_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("eval.drawing.draw", lambda store: pytest.fail("drawn"))
    for arguments in (["--help"], [str(tmp_path), "--frobnicate", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(["report", *arguments])
        assert caught.value.code == 0
        assert capsys.readouterr().out.startswith("usage: rlhf-compare report [-h] [--debug] FOLDER\n")


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
        (["--top-p", "0.9"], "there is no option --top-p: what is learned from is drawn from the whole distribution"),
        (["--top_k=5", "--algos", "dpo"], "that are judged set eval.top_k (--eval.top-k)."),
        (["--ppo.top-p", "0.9", "--dry-run"], "there is no option --ppo.top-p: what is learned from"),
        (["--eval.top-p", "1.1"], "top_p must be in (0, 1]; got 1.1"),
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


def test_an_unknown_option_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--sedes", "3"])
    assert caught.value.code == 2
    assert "--seeds" in re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)


def test_debug_shows_where(small: SmallWorld, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown algorithm"):
        main([*small.arguments(tmp_path / "x"), "--algos", "pqo", "--debug"])


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


def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below a file, and where the folder, or the one above it, takes nothing."""
    monkeypatch.setattr("run_compare._require_room", lambda options, console: None)
    file = tmp_path / "notes.txt"
    file.touch()
    assert main(["--out", str(file / "mine")]) == 2
    line = refusal(capsys.readouterr().err)
    assert line.startswith(f"error: {file / 'mine'} cannot be read or written: ")
    assert line.endswith("Fix that, and repeat the command.")
    there = Store.create(tmp_path / "one", parse([]).experiment).path

    def denied(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", lambda path, *_, **__: denied(path.parent.parent))
    for arguments, again in (
        (["--out", str(tmp_path / "folder" / "two")], "repeat the command"),
        (["--resume", str(there)], f"go on with --resume {there}"),
        (["report", str(there)], "repeat the command"),
    ):
        assert main(arguments) == 2
        line = refusal(capsys.readouterr().err)
        assert " cannot be read or written: [Errno 13] Permission denied: " in line
        assert line.endswith(f"Fix that, and {again}.")
    monkeypatch.setattr(Path, "read_bytes", denied)
    for arguments in (["--resume", str(there)], ["report", str(there)]):
        assert main(arguments) == 2
        assert refusal(capsys.readouterr().err).startswith(f"error: {there} cannot be read or written: ")
