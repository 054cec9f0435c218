"""The command line, end to end on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from run_world import unmeasured, weights
from small_world import SmallWorld, compared, sketch

from algos.engine.storage import read_json, write_json
from eval.memory import room
from eval.memory.footprint import Need
from eval.process.workers import Workers
from eval.store import Store
from run_compare import main, parse


@pytest.fixture(scope="module")
def finished(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "one"
    with pytest.MonkeyPatch.context() as patch:
        sketch(patch)
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

    folder = finished / "runs" / "ppo-s0" / "policy"
    _, loaded = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loaded.values()), "what is missing or unexpected is drawn at random or left out"


def test_two_workers_and_a_second_time_give_the_same(
    small: SmallWorld, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    take = Workers.take

    def noted(self: Workers) -> Any:
        worker = take(self)
        taken.append(worker.process.pid)
        return worker

    monkeypatch.setattr(Workers, "take", noted)
    out = tmp_path / "two"
    assert compared(small.arguments(out, "--frontier.samples", "0", workers=2)) == 0
    assert len(taken) == len(set(taken)) == 2, "in two processes, or it would be the same by itself"
    pd.testing.assert_frame_equal(unmeasured(finished), unmeasured(out), check_exact=True)
    assert weights(finished) == weights(out)
    assert len(weights(out)) == 6


def test_resume_runs_only_what_is_missing(small: SmallWorld, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "grown"
    short = ["--budget", "2iterations", "--eval.points", "1", "--frontier.samples", "0"]
    assert compared([*small.arguments(out, *short), "--algos", "reinforce", "--seeds", "1"]) == 0
    stamp = (out / "runs" / "reinforce-s0" / "status.json").stat().st_mtime_ns
    more = ["--seeds", "2", "--algos", "+dpo", "--cache", small.cache, "--workers", "1"]
    assert compared(["--resume", str(out), *more]) == 0
    assert (out / "runs" / "reinforce-s0" / "status.json").stat().st_mtime_ns == stamp
    assert Store.open(out).materials(0).pairs  # made for the arm that was added
    assert sorted(path.name for path in (out / "runs").iterdir()) == [
        "dpo-s0",
        "dpo-s1",
        "reinforce-s0",
        "reinforce-s1",
    ]


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


@pytest.mark.usefixtures("forked")
def test_a_worker_that_dies_fails_its_run_only(small: SmallWorld, tmp_path: Path) -> None:
    out = tmp_path / "died"
    more = ("--algos", "ppo", "dpo", "--seeds", "1")
    assert compared(small.arguments(out, *more, reward="dies", workers=2)) == 1
    runs = Store.open(out).runs.set_index("arm")
    assert "worker process died (exit status 7)" in runs.loc["ppo", "error"]
    assert runs.loc["dpo", "status"] == "done"


def test_pairs_alone_train_a_reward_model_and_a_judge(small: SmallWorld, tmp_path: Path) -> None:
    out = tmp_path / "pairs"
    arguments = ["--model", small.model, "--pairs", small.pairs, "--out", str(out), "--cache", small.cache, "--workers", "1", "--seeds", "1",
                 "--budget", "2iterations", "--max-new-tokens", "6", "--eval.points", "1", "--learning-rate", "1e-2", "--reward-model.learning-rate", "1e-2",
                 "--prompts-per-iteration", "4", "--dpo.batch-size", "8", "--frontier.samples", "0"]  # fmt: skip
    assert compared(arguments) == 0
    facts = Store.open(out).facts
    assert facts["reward_model"]["accuracy"] == 1.0  # "good" against "bad" is not hard
    assert any("disjoint half" in note for note in facts["notes"])
    results = Store.open(out).results
    assert {"bleu", "chrf", "preference_accuracy", "perplexity/heldout"} <= set(results["metric"])


@pytest.mark.usefixtures("sketched")
def test_the_report_is_drawn_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    assert main(["report", str(finished)]) == 0
    assert (finished / "report.html").read_bytes() == before
    assert str(finished / "report.html") in capsys.readouterr().out


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
    assert (
        parse(["--config", str(finished / "experiment.yaml")]).experiment == Store.open(finished).experiment
    )


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
    assert compared([*small.arguments(out, *short), *seeds, "--sweep", "beta=0.05,0.2"]) == 0
    arms = ["reinforce-beta-0.05", "reinforce-beta-0.2"]
    assert sorted(path.name for path in (out / "runs").iterdir()) == [f"{arm}-s5" for arm in arms]
    store = Store.open(out)
    ends = store.results.query("point == 1 and metric == 'kl/sequence'")
    assert ends["value"].nunique() == 2  # another β, another policy
    assert store.experiment.variants["reinforce-beta-0.2"] == {"algorithm": "reinforce", "beta": 0.2}
    again = parse(["--resume", str(out), "--sweep", "beta=0.2,1"]).experiment
    assert again.algos == (*arms, "reinforce-beta-1")
    assert {name: again.variants[name] for name in arms} == store.experiment.variants


def test_events_are_json_of_finite_numbers(finished: Path) -> None:
    lines = (finished / "runs" / "ppo-s1" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 6  # one an iteration
    for line in lines:
        row = json.loads(line, parse_constant=lambda name: pytest.fail(name))
        assert row["fraction"] <= 1
