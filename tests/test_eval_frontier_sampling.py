"""How the pool is drawn: whose samples, the same by any number of workers, in one piece or after a stop."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_world import SmallWorld, compared

from algos import Policy, UserError
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


def quiet(job: Job, fraction: float, words: str) -> None:
    """Progress that nobody watches."""


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


def test_it_is_not_drawn_where_other_responses_are_judged(finished: Path) -> None:
    store = Store.open(finished)
    assert Plan.of(store) is not None
    store.experiment = replace(store.experiment, eval=replace(store.experiment.eval, temperature=0.5))
    assert Plan.of(store) is None


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
        assert len(workers.idle) == 2
    together = store.pool
    assert alone is not None
    assert together is not None
    np.testing.assert_array_equal(alone.logps_KPM, together.logps_KPM)
    np.testing.assert_array_equal(alone.rewards["proxy"], together.rewards["proxy"])
    assert not list(store.path.glob("frontier.part-*"))


def test_on_a_gpu_no_more_processes_sample_than_share_its_memory(
    undrawn: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two were asked for, and there is one run."""
    asked: list[int] = []
    monkeypatch.setattr(Workers, "do", lambda self, jobs, *_, **__: asked.append(len(jobs)))
    monkeypatch.setattr(Pool, "joined", lambda parts: SimpleNamespace(save=lambda folder: None))
    for kind in ("cpu", "cuda"):
        monkeypatch.setattr("eval.frontier.sampling.pick_device", lambda _, kind=kind: torch.device(kind))
        update_pool(undrawn, Workers(2, kind, at_once=1), quiet)
    assert asked == [2, 1]


def test_the_same_policies_are_not_drawn_twice(finished: Path) -> None:
    store = Store.open(finished)
    before = (store.path / "frontier" / "pool.safetensors").stat().st_mtime_ns
    Drawn(store.path).begin(
        {"samplers": ["base"], "seeds": [0], "counts": [3], "prompts": 2, "data_seed": 0}
    )  # as a kill leaves it
    update_pool(store, Workers(1), quiet)
    assert not Drawn(store.path).folder.exists()
    assert (store.path / "frontier" / "pool.safetensors").stat().st_mtime_ns == before


def test_what_a_kill_left_of_more_workers_is_removed(undrawn: Store) -> None:
    left = undrawn.path / "frontier.part-7"
    for _ in ("drawn", "there already"):
        left.mkdir()
        (left / "pool.json").touch()
        update_pool(undrawn, Workers(1), quiet)
        assert not left.exists()


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
    Store.reading(store.path)  # where it is stopped now, the report goes without a frontier


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


@pytest.mark.parametrize(
    ("moment", "kept", "workers"), [("sampling reinforce", 4, 2), ("scoring ppo", 16, 1)]
)
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
