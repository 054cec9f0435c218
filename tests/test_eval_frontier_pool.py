"""The pool of samples: what is drawn, that every policy scores every response, and that workers change nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from small_world import SmallWorld, compared

from algos import Policy, RunError, UserError
from algos.engine.storage import DamagedFile
from algos.engine.text.tokens import encode
from eval.comparison import _draw_pool
from eval.console import Console
from eval.frontier.answers import Drawn
from eval.frontier.pool import Pool
from eval.frontier.sampling import Plan, forget_pool, sample, update_pool
from eval.process.jobs import Job
from eval.process.workers import Workers
from eval.settings.parts import Frontier
from eval.store import Store
from run_compare import main

SHORT = ("--budget", "1iterations", "--eval.points", "1", "--frontier.prompts", "2")


def quiet(job: Job, fraction: float, words: str) -> None:
    """Progress that nobody watches."""


def a_pool(prompts: int = 2) -> Pool:
    random = np.random.default_rng(0)
    rewards = {name: random.normal(size=(prompts, 5)) for name in ("proxy", "judge")}
    return Pool(("base", "ppo"), (0, 3), (3, 2), -random.random((2, prompts, 5)), rewards)


@pytest.fixture(scope="module")
def finished(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small comparison whose frontier was drawn by one process."""
    out = tmp_path_factory.mktemp("pool") / "one"
    assert compared(small.arguments(out)) == 0
    return out


@pytest.fixture
def undrawn(finished: Path, tmp_path: Path) -> Store:
    """The same comparison without its frontier."""
    out = shutil.copytree(finished, tmp_path / "undrawn")
    shutil.rmtree(out / "frontier")
    return Store.open(out)


def test_a_pool_is_what_was_saved(tmp_path: Path) -> None:
    pool = a_pool()
    pool.save(tmp_path / "frontier")
    again = Pool.load(tmp_path / "frontier")
    assert again is not None
    assert again.description == pool.description
    np.testing.assert_array_equal(again.logps_KPM, pool.logps_KPM)
    np.testing.assert_array_equal(again.rewards["judge"], pool.rewards["judge"])
    assert Pool.load(tmp_path / "nothing") is None


def test_parts_are_joined_by_prompt() -> None:
    first, second = a_pool(2), a_pool(3)
    joined = Pool.joined([first, second])
    assert joined.logps_KPM.shape == (2, 5, 5)
    np.testing.assert_array_equal(joined.logps_KPM[:, 2:], second.logps_KPM)
    np.testing.assert_array_equal(joined.rewards["proxy"][:2], first.rewards["proxy"])


def test_what_the_reward_left_unscored_is_kept_as_such(tmp_path: Path) -> None:
    """But nothing is missing of a judge, and nothing is infinite."""
    pool = a_pool()

    def kept(name: str, value: float) -> np.ndarray:
        damaged = pool.rewards[name].copy()
        damaged[1, 2] = value
        folder = tmp_path / f"{name} {value}"
        replace(pool, rewards={**pool.rewards, name: damaged}).save(folder)
        found = Pool.load(folder)
        assert found is not None
        return np.argwhere(np.isnan(found.rewards[name]))

    assert kept("proxy", np.nan).tolist() == [[1, 2]]
    for name, value in (("proxy", np.inf), ("judge", np.nan)):
        with pytest.raises(DamagedFile, match=f"{name} holds what is none"):
            kept(name, value)


def test_a_sampler_has_its_own_places() -> None:
    pool = a_pool()
    assert (pool.of("base"), pool.of("ppo")) == (slice(0, 3), slice(3, 5))


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        replace(a_pool(), counts=(3, 3))


def test_every_arm_answers_by_its_lowest_finished_seed(finished: Path) -> None:
    pool = Store.open(finished).pool
    assert pool is not None
    assert pool.samplers == ("base", "reinforce", "ppo", "dpo")
    assert pool.seeds == (0, 0, 0, 0)
    assert pool.counts == (40, 40, 40, 40)
    assert pool.logps_KPM.shape == (4, 4, 160)
    for place, sampler in enumerate(pool.samplers[1:], start=1):  # samples of a policy are likelier under it
        own = pool.of(sampler)
        assert (pool.logps_KPM[place, :, own] - pool.logps_KPM[0, :, own]).mean() > 0


def test_with_many_arms_each_draws_less(finished: Path) -> None:
    store = Store.open(finished)
    store.experiment = replace(store.experiment, frontier=Frontier(prompts=4, samples=40))
    runs = store.all_runs
    arms = [f"reinforce-{i}" for i in range(12)]
    store.__class__ = type("Many", (Store,), {"all_runs": property(lambda _: [replace(r, arm=a) for a in arms for r in runs[:1]])})  # fmt: skip
    plan = Plan.of(store)
    assert plan is not None
    assert plan.counts == (40, *[10] * 12)


def test_log_probabilities_are_those_of_the_policies(finished: Path) -> None:
    """Scored once more, token by token, for the base's first response to the first prompt."""
    import torch

    from algos import Sampling, sample
    from algos.engine.seeding import derive

    store = Store.open(finished)
    pool, materials = store.pool, store.materials(0)
    assert pool is not None
    base = Policy.load(materials.model)
    trained = Policy.load(str(store.run("ppo", 0).folder / "policy"))
    prompt = encode(base.tokenizer, materials.test_prompts[0]["prompt"])
    drawn = sample(
        base, [prompt], Sampling(max_new_tokens=6), derive(0, "frontier", "base", 0), group_size=40
    )
    ids = drawn.response_ids_PGT[0, 0][drawn.mask_PGT[0, 0]].tolist()
    for place, policy in ((0, base), (2, trained)):
        with torch.no_grad():
            logits = policy.model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        expected = sum(float(logits[len(prompt) - 1 + t, token]) for t, token in enumerate(ids))
        assert pool.logps_KPM[place, 0, 0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.usefixtures("forked")
def test_workers_change_nothing(finished: Path, tmp_path: Path) -> None:
    store = Store.open(finished)
    alone = store.pool
    (store.path / "frontier").rename(tmp_path / "aside")
    with Workers(2) as workers:
        update_pool(store, workers, quiet)
    together = store.pool
    assert alone is not None
    assert together is not None
    np.testing.assert_array_equal(alone.logps_KPM, together.logps_KPM)
    np.testing.assert_array_equal(alone.rewards["proxy"], together.rewards["proxy"])
    assert not list(store.path.glob("frontier.part-*"))


def test_the_same_policies_are_not_drawn_twice(finished: Path) -> None:
    store = Store.open(finished)
    before = (store.path / "frontier" / "pool.safetensors").stat().st_mtime_ns
    Drawn(store.path).begin(
        {"samplers": ["base"], "seeds": [0], "counts": [3], "prompts": 2, "data_seed": 0}
    )  # as a kill leaves it
    update_pool(store, Workers(1), quiet)
    assert not Drawn(store.path).folder.exists()
    assert (store.path / "frontier" / "pool.safetensors").stat().st_mtime_ns == before


def test_policies_that_are_made_again_answer_again(finished: Path, tmp_path: Path) -> None:
    """A budget in seconds, or a GPU, does not make the same ones twice."""
    shutil.copytree(finished, tmp_path / "copy")
    store = Store.open(tmp_path / "copy")
    forget_pool(store, [])
    forget_pool(store, [replace(store.run("dpo", 0), seed=1)])
    assert store.pool is not None
    drawn = Drawn(store.path)
    drawn.begin({**store.pool.description, "data_seed": 0})
    forget_pool(store, [replace(store.run("dpo", 0), seed=1)])
    assert drawn.plan
    forget_pool(store, [store.run("dpo", 0)])
    assert store.pool is None
    assert not drawn.plan


@pytest.mark.usefixtures("sketched")
def test_it_can_be_switched_off(small: SmallWorld, tmp_path: Path) -> None:
    out = tmp_path / "off"
    arguments = small.arguments(out, "--frontier.samples", "0", "--algos", "reinforce", "--seeds", "1")
    assert main(arguments) == 0
    assert Store.open(out).pool is None
    assert "It was switched off" in (out / "report.md").read_text(encoding="utf-8")


def test_it_is_not_drawn_where_other_responses_are_judged(finished: Path) -> None:
    store = Store.open(finished)
    assert Plan.of(store) is not None
    store.experiment = replace(store.experiment, eval=replace(store.experiment.eval, temperature=0.5))
    assert Plan.of(store) is None


@pytest.mark.usefixtures("sketched")
def test_a_reward_that_fails_leaves_the_report(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(store: Store, workers: Workers, update: object) -> None:
        raise RunError("the reward gave up")

    out = tmp_path / "without"
    with monkeypatch.context() as failing:
        failing.setattr("eval.comparison.update_pool", fails)
        assert main(small.arguments(out, "--algos", "reinforce", "--seeds", "1", *SHORT)) == 0
    assert "no frontier: the reward gave up" in capsys.readouterr().err
    assert Store.open(out).environment["no_frontier"] == "the reward gave up"
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "is not known: the reward gave up. To try again: rlhf" in text
    assert main(["--resume", str(out), "--cache", small.cache, "--workers", "1"]) == 0
    assert Store.open(out).pool is not None
    assert "no_frontier" not in json.loads((out / "environment.json").read_text(encoding="utf-8"))
    assert "gave up" not in (out / "report.md").read_text(encoding="utf-8")


SOME_UNSCORED = """
def some(prompts, completions, **columns):
    return [None if text.split()[:1] == ["good"] else float(len(text)) for text in completions]

def length(prompts, completions, **columns):
    return [float(len(text)) for text in completions]
"""


@pytest.mark.usefixtures("sketched")
def test_unscored_samples_leave_the_judges_frontier(small: SmallWorld, tmp_path: Path) -> None:
    file, out = tmp_path / "own.py", tmp_path / "some"
    file.write_text(SOME_UNSCORED, encoding="utf-8")
    scored = ("--reward", f"{file}:some", "--judge", f"{file}:length", "--allow-unscored")
    assert main(small.arguments(out, "--algos", "reinforce", "--seeds", "1", *SHORT, *scored)) == 0
    store = Store.open(out)
    pool = store.pool
    assert pool is not None
    unscored = np.isnan(pool.rewards["proxy"])
    assert 0 < unscored.mean() < 1
    np.testing.assert_array_equal(pool.rewards["proxy"][~unscored], pool.rewards["judge"][~unscored])
    assert "no_frontier" not in store.environment
    results = store.results
    shares = results[results["metric"] == "unscored"]
    assert set(shares["arm"]) == {"base", "reinforce"}
    assert shares["value"].between(0, 1).all()
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "Against the frontier of judge reward" in text
    assert "Against the frontier of proxy reward" not in text
    assert "No frontier of the proxy reward" in text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("there is not enough memory for it."), "there is not enough memory for it."),
        (MemoryError("no 3 GiB"), "MemoryError: no 3 GiB"),
        (ValueError("a defect"), "ValueError: a defect"),
        (OSError(errno.EMFILE, "Too many open files"), "OSError: [Errno 24] Too many open files"),
    ],
)
def test_what_fails_is_told_in_a_line(
    undrawn: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    told: str,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Policy, "load", fails)
    assert _draw_pool(undrawn, Workers(1), Console()) == told
    assert f"no frontier: {told}\n" in capsys.readouterr().err
    assert undrawn.pool is None
    assert undrawn.pool is None
    assert [found.name for found in undrawn.path.glob("frontier*")] == ["frontier.drawn"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_and_ctrl_c_are_no_missing_frontier(
    undrawn: Store, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(Pool, "save", fails)
    with pytest.raises(type(error)):
        _draw_pool(undrawn, Workers(1), Console())


def test_safetensors_full_disk_is_the_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("eval.frontier.pool.save_file", fails)
    with pytest.raises(OSError, match="No space left"):
        a_pool().save(tmp_path / "frontier")


def test_one_policy_is_in_memory_at_a_time(undrawn: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    load, loaded = Policy.load, []

    def watched(*given: Any, **options: Any) -> Policy:
        assert [alive for alive in loaded if alive() is not None] == []
        policy = load(*given, **options)
        loaded.append(weakref.ref(policy.model))
        return policy

    monkeypatch.setattr(Policy, "load", watched)
    update_pool(undrawn, Workers(1), quiet)
    assert len(loaded) == 8  # four policies sample, then score


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("moment", "kept"), [("sampling reinforce", 4), ("scoring ppo", 16)])
@pytest.mark.usefixtures("forked")
def test_what_was_sampled_is_not_asked_for_again(
    finished: Path, undrawn: Store, monkeypatch: pytest.MonkeyPatch, moment: str, kept: int, workers: int
) -> None:
    """By however many processes it is gone on with. A file that was damaged meanwhile is made again."""

    def interrupts(job: Job, fraction: float, words: str) -> None:
        if words == moment:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        update_pool(undrawn, Workers(1), interrupts)
    files = sorted((undrawn.path / "frontier.drawn").glob("answers-*"))
    assert len(files) == kept
    files[0].write_bytes(files[0].read_bytes()[:-1] + b"?")
    asked = undrawn.path / "asked"

    def watched(*given: Any, **options: Any) -> Any:
        with asked.open("a", encoding="utf-8") as file:
            file.write("x")
        return sample(*given, **options)

    monkeypatch.setattr("eval.frontier.sampling.sample", watched)
    with Workers(workers) as hired:
        update_pool(undrawn, hired, quiet)
    assert len(asked.read_text(encoding="utf-8")) == 4 * 4 - kept + 1  # samplers × prompts
    there, whole = Store.open(finished).pool, undrawn.pool
    assert there is not None
    assert whole is not None
    np.testing.assert_array_equal(whole.logps_KPM, there.logps_KPM)
    for name in ("proxy", "judge"):
        np.testing.assert_array_equal(whole.rewards[name], there.rewards[name])
    assert not (undrawn.path / "frontier.drawn").exists()


@pytest.mark.parametrize("moment", ["sampling reinforce", "scoring ppo"])
def test_ctrl_c_stops_before_the_next_prompt(
    undrawn: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], moment: str
) -> None:
    told: list[str] = []

    def interrupts(job: Job, fraction: float, words: str) -> None:
        told.append(words)
        if words == moment:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        update_pool(undrawn, Workers(1), interrupts)
    assert told[-2:] == [moment, "stopped"]
    assert told.count(moment) == 1
    assert not list(undrawn.path.glob("frontier.part-*"))
    said = capfd.readouterr().err
    assert said.splitlines() == [
        "stopping: what was sampled for the frontier is kept for --resume. Ctrl-C again stops at once."
    ]
    update_pool(undrawn, Workers(1), quiet)
    assert undrawn.pool is not None
