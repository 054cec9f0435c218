"""Tuning: the tries are the same whatever ran when, on nothing that the comparison uses, and the best is what runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_world import SmallWorld, compared

import eval.tuning.tune
from algos import Budget, UserError
from algos.engine.storage import DamagedFile
from eval.console import Console
from eval.experiment import Experiment
from eval.opening import discard, resuming
from eval.process.jobs import Job, Update
from eval.process.workers import Workers
from eval.run import execute
from eval.settings.limits import TUNING_SEED
from eval.settings.resume import extended
from eval.stages.cache import ArtefactCache
from eval.store import Store
from eval.tasks import materials_of
from eval.tuning import tries
from eval.tuning.tune import tune
from run_compare import main, parse

SHORT = (
    "--budget",
    "2iterations",
    "--eval.points",
    "1",
    "--frontier.samples",
    "0",
    "--dpo.epochs",
    "2",
    "--tune-seeds",
    "1",
)


def prepared(small: SmallWorld, out: Path, *more: str, reward: str = "score") -> Store:
    """A comparison with its materials, before tuning."""
    asked = parse(
        small.arguments(out, *SHORT, "--seeds", "1", "--tune", "3", *more, reward=reward)
    ).experiment
    store = Store.create(out, asked)
    materials_of(asked, ArtefactCache(Path(small.cache)), 0).save(store.path / "materials" / "0")
    return store


def choice(store: Store) -> dict[str, Any]:
    """What was tried and chosen, without what is measured."""
    found = store.tuning
    assert found["budget"] == Budget.parse(store.experiment.budget).told
    assert found["budget"] != store.experiment.budget
    for about in found["arms"].values():
        for each in about["tries"]:
            del each["seconds"]
    return found


@pytest.fixture(scope="module", autouse=True)
def startup() -> Iterator[None]:
    """The third of three tries depends on those before it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tries, "STARTUP", 2)
        patch.setattr(eval.tuning.tune, "STARTUP", 2)
        yield


@pytest.fixture(scope="module")
def tuned(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "one"
    arguments = small.arguments(out, *SHORT, "--seeds", "1", "--tune", "3", "--algos", "ppo", "dpo")
    assert compared(arguments) == 0
    return out


def test_the_chosen_settings_are_what_ran(tuned: Path) -> None:
    store, found = Store.open(tuned), choice(Store.open(tuned))
    begun = Store.open(tuned / "tuning").experiment
    assert set(store.experiment.before_tuning) == {"ppo", "dpo"}
    for name, about in found["arms"].items():
        values = [each["value"] for each in about["tries"]]
        assert [each["number"] for each in about["tries"]] == [1, 2, 3]
        assert about["chosen"] == values.index(max(values)) + 1
        assert about["tries"][0]["settings"] == {s: getattr(begun.arm(name), s) for s in about["space"]}
        chosen = about["tries"][about["chosen"] - 1]["settings"]
        assert {s: getattr(store.experiment.arm(name), s) for s in chosen} == chosen
        assert store.facts["arms"][name]["settings"] | chosen == store.facts["arms"][name]["settings"]
        assert store.experiment.search[name] == about["space"]
    assert all(run.status["status"] == "done" for run in store.all_runs)
    for option in (["--config", str(tuned / "experiment.yaml")], ["--resume", str(tuned)]):
        assert parse(option).experiment == store.experiment
    assert (
        store.experiment.untuned == ()
    )  # the stored settings repeat the comparison, and do not tune it again


def test_nothing_that_the_comparison_uses_is_seen(tuned: Path) -> None:
    store, tuning = Store.open(tuned), Store.open(tuned / "tuning")
    materials, shown = store.materials(0), tuning.materials(0)
    fresh = [row["prompt"] for row in shown.test_prompts]
    test = {row["prompt"] for row in materials.test_prompts}
    assert fresh == [row["prompt"] for row in materials.validation_prompts][: len(fresh)]
    assert not test & set(fresh)
    assert not set(fresh) & {row["prompt"] for row in [*materials.train_prompts, *materials.pairs]}
    assert (list(shown.heldout_pairs), list(shown.heldout_texts)) == ([], [])
    assert {row["prompt"] for run in tuning.all_runs for row in run.read("samples")} == set(fresh)
    assert {row["prompt"] for run in store.all_runs for row in run.read("samples")} <= test
    assert {run.seed for run in tuning.all_runs} == {TUNING_SEED}
    assert {run.seed for run in store.all_runs} == {0}


def test_tuning_is_in_no_arms_cost_and_leaves_no_policies(tuned: Path) -> None:
    store = Store.open(tuned)
    for run in store.all_runs:
        assert run.read("rows")[-1]["metrics"]["cost/train_flops"] == run.read("events")[-1]["flops"]
    for about in store.tuning["arms"].values():
        assert all(each["flops"] > 0 and each["seconds"] > 0 for each in about["tries"])
    assert list(tuned.glob("tuning/runs/*/policy")) == []
    assert {run.status["policy"] for run in Store.open(tuned / "tuning").all_runs} == {""}


@pytest.mark.usefixtures("forked")
def test_two_workers_try_the_same(small: SmallWorld, tuned: Path, tmp_path: Path) -> None:
    store = prepared(small, tmp_path / "two", "--algos", "ppo", "dpo", "--tune", "2")
    with Workers(2) as workers:
        tune(store, workers, Console())
        assert len(workers.idle) == 2
    one = choice(Store.open(tuned))["arms"]
    for name, about in choice(store)["arms"].items():
        assert about["tries"] == one[name]["tries"][:2]
        assert about["space"] == one[name]["space"]


class StopsAfter(Workers):
    """Interrupted: so many jobs are done, and the next is begun."""

    def __init__(self, jobs: int) -> None:
        super().__init__(1)
        self.left = jobs

    def do(self, jobs: Sequence[Job], update: Update) -> None:
        for job in jobs:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            super().do([job], update)


def test_an_interrupted_tuning_goes_on_where_it_was(small: SmallWorld, tuned: Path, tmp_path: Path) -> None:
    """One arm has had its three tries, the other two of them."""
    store = prepared(small, tmp_path / "stopped", "--algos", "ppo", "dpo")
    with pytest.raises(KeyboardInterrupt):
        tune(store, StopsAfter(5), Console())
    finished = {file: file.stat().st_mtime_ns for file in store.path.glob("tuning/runs/*/rows.jsonl")}
    tried = sorted(file.parent.name.partition("-try-")[0] for file in finished)
    assert tried == ["dpo"] * 2 + ["ppo"] * 3
    assert Store.open(store.path).experiment.untuned == ("ppo", "dpo")
    discard(store.path)  # as a user's mistake would have it: what has run is kept
    again = Store.open(store.path)
    assert parse(["--resume", str(store.path)]).experiment == again.experiment
    tune(again, Workers(1), Console())
    assert choice(again) == choice(Store.open(tuned))
    assert again.experiment == Store.open(tuned).experiment
    assert {file: file.stat().st_mtime_ns for file in finished} == finished


def test_an_arm_that_is_added_gets_the_same_tries(small: SmallWorld, tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "grown"
    shutil.copytree(tuned, out)
    store = Store.open(out)
    before, policy = choice(store)["arms"], store.experiment.arm("ppo")
    variants = {"calm": {"algorithm": "ppo", "clip_range": 0.05}}
    store.experiment = extended(
        store.experiment, replace(store.experiment, algos=("reinforce", "calm"), variants=variants)
    )
    assert store.experiment.untuned == ("reinforce", "calm")
    tune(store, Workers(1), Console())
    after = choice(store)["arms"]
    assert {name: after[name] for name in before} == before
    assert [len(about["tries"]) for about in after.values()] == [3, 3, 3, 3]
    # It begins with what ppo began with, not with what tuning made of it.
    assert after["calm"]["tries"][0]["settings"] == before["ppo"]["tries"][0]["settings"]
    assert store.experiment.arm("calm").clip_range == 0.05
    assert store.experiment.arm("ppo") == policy


def test_a_failed_try_is_kept_and_not_chosen(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepared(small, tmp_path / "failing", "--algos", "reinforce", "--tune-seeds", "2")

    def sometimes(directory: Path, arm: str, seed: int, report: Any) -> str:
        status = execute(directory, arm, seed, report)
        if (arm, seed) == ("reinforce-try-1", TUNING_SEED + 1):
            run = Store.open(directory).run(arm, seed)
            run.finish(**run.status | {"status": "failed", "error": "it broke"})
        return status

    monkeypatch.setattr("eval.run.execute", sometimes)
    tune(store, Workers(1), Console())
    (about,) = choice(store)["arms"].values()
    first, second, third = about["tries"]
    assert (first["status"], first["value"], first["error"]) == (
        "failed",
        None,
        f"seed {TUNING_SEED + 1}: it broke",
    )
    assert first["flops"] > 0
    assert about["chosen"] == (2 if second["value"] >= third["value"] else 3)
    tuning = Store.open(store.path / "tuning")
    ends = [
        tuning.run("reinforce-try-2", TUNING_SEED + i).read("rows")[-1]["metrics"]["reward/judge"]
        for i in (0, 1)
    ]
    assert second["value"] == pytest.approx(sum(ends) / 2)


def test_where_every_try_failed_the_settings_stay(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = prepared(small, tmp_path / "failed", "--algos", "reinforce")
    before = store.experiment.arm("reinforce")

    def fails(directory: Path, arm: str, seed: int, report: Any) -> str:
        run = Store.open(directory).run(arm, seed)
        run.begin()
        run.finish(status="failed", error="no luck", policy="")
        return "failed"

    monkeypatch.setattr("eval.run.execute", fails)
    tune(store, Workers(1), Console())
    (about,) = choice(store)["arms"].values()
    assert [(each["status"], each["value"], each["flops"]) for each in about["tries"]] == [
        ("failed", None, 0)
    ] * 3
    assert about["chosen"] is None
    assert store.experiment.arm("reinforce") == before
    assert store.experiment.untuned == ()
    assert "all 3 tries failed; its settings stay as they are" in capsys.readouterr().err


def test_without_validation_prompts_there_is_no_tuning(small: SmallWorld, tmp_path: Path) -> None:
    store = prepared(small, tmp_path / "none")
    replace(store.materials(0), validation_prompts=[]).save(store.path / "materials" / "0")
    with pytest.raises(UserError, match="needs validation prompts that fit the model; got none of 0"):
        tune(store, Workers(1), Console())


def test_every_seed_of_tuning_has_data_of_its_own_where_every_seed_has(
    small: SmallWorld, tmp_path: Path
) -> None:
    shared = Experiment(tune=2, data_seed=5)
    assert [shared.data_seed_of(seed) for seed in shared.tuning_seeds] == [5, 5]
    assert not replace(shared, before_tuning={name: {} for name in shared.algos}).tuning_seeds
    store = prepared(
        small, tmp_path / "own", "--algos", "dpo", "--replicate-data", "--tune-seeds", "2", "--tune", "1"
    )
    for seed in store.experiment.tuning_seeds:
        materials_of(store.experiment, ArtefactCache(Path(small.cache)), seed).save(
            store.path / "materials" / str(seed)
        )
    tune(store, Workers(1), Console())
    tuning = Store.open(store.path / "tuning")
    first, second = (list(tuning.materials(TUNING_SEED + i).pairs) for i in (0, 1))
    assert first != second
    assert [run.status["status"] for run in tuning.all_runs] == ["done", "done"]


@pytest.mark.slow
def test_on_the_built_in_task(tmp_path: Path) -> None:
    arguments = ["--tune", "2", "--sweep", "ppo.beta=0.05,0.2", "--algos", "reinforce", "ppo", "--seeds", "1"]
    arguments += [
        "--budget",
        "4iterations",
        "--eval.points",
        "1",
        "--frontier.samples",
        "0",
        "--workers",
        "2",
    ]
    out = tmp_path / "reviews"
    assert main([*arguments, "--cache", str(tmp_path / "cache"), "--out", str(out)]) == 0
    store = Store.open(out)
    assert set(store.experiment.before_tuning) == {"reinforce", "ppo-beta-0.05", "ppo-beta-0.2"}
    assert list(store.tuning["arms"]["ppo-beta-0.05"]["space"]) == ["learning_rate", "ppo_epochs"]
    assert [store.experiment.arm(name).beta for name in store.experiment.algos[1:]] == [0.05, 0.2]
    tuning = Store.open(out / "tuning")
    assert not {r["prompt"] for r in tuning.base_samples} & {r["prompt"] for r in store.base_samples}


def test_unfinished_tuning_goes_on_as_it_is_asked_now(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long a reward may take and when to save: what --resume may change is not tuning's own."""
    store = prepared(small, tmp_path / "stopped", "--algos", "reinforce")

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(eval.tuning.tune, "_run_tries", stopped)
        with pytest.raises(KeyboardInterrupt):
            tune(store, Workers(1), Console())
    changed = [
        "--reward-timeout",
        "7",
        "--reward-retries",
        "0",
        "--checkpoint-every",
        "9",
        "--log-with",
        "tensorboard",
    ]
    again = Store.open(store.path, parse(["--resume", str(store.path), *changed]).experiment)
    monkeypatch.setattr(eval.tuning.tune, "_run_tries", stopped)
    with pytest.raises(KeyboardInterrupt):
        tune(again, Workers(1), Console())
    found = Store.open(store.path / "tuning").experiment
    assert (found.reward_timeout, found.reward_retries, found.checkpoint_every) == (7, 0, 9)
    assert found.log_with == ("tensorboard",)


def test_a_choice_that_is_gone_is_told_again_from_the_tries(tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "gone"
    shutil.copytree(tuned, out)
    before = Store.open(out).tuning
    (out / "tuning" / "choice.json").unlink()
    with pytest.raises(DamagedFile, match=r"choice\.json was written but is gone"):
        Store.reading(out)
    with resuming(out) as store:
        asked = store.experiment
        tune(store, Workers(1), Console())
    assert (store.tuning, store.experiment) == (before, asked)
    Store.reading(out)
