"""A run's own faults: what goes wrong in it is its own, and its status says what it was made with."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from faults import first, start
from outcomes import outcome
from small_world import SmallWorld

from algos import Policy, Sampling, UserError
from algos.engine.calls import RewardError
from algos.engine.storage import read_json
from eval.comparison import _made
from eval.experiment import Experiment
from eval.metrics import Evaluator
from eval.run import _base_under, evaluate_base, execute
from eval.settings.parts import Evaluation
from eval.stages.cache import ArtefactCache
from eval.store import Store
from eval.tasks import materials_of


def test_a_model_too_large_to_be_evaluated_is_the_users_to_mend(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a traceback; a reward that ran out of memory keeps its own words."""
    for error, words in (
        (torch.OutOfMemoryError("CUDA out of memory."), "not enough memory for the model beside its reward"),
        (RewardError("the reward score raised CUDA out of memory."), "the reward score raised"),
    ):

        def full(*_: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr("eval.run.load_base", full)
        with pytest.raises(UserError, match=words):
            evaluate_base(SimpleNamespace(experiment=None), None)  # type: ignore[arg-type]


def test_materials_too_large_for_memory_are_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("eval.comparison.materials_of", full)
    with pytest.raises(UserError, match="out of memory in preparing model, data and reward"):
        _made(Experiment(), None, 0)  # type: ignore[arg-type]


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


def raising(error: BaseException) -> Any:
    def broken(*_: Any, **__: Any) -> Any:
        raise error

    return broken


def test_a_defect_costs_its_run_and_leaves_a_traceback(
    never_stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(never_stopped, out)
    monkeypatch.setattr("eval.run.train", raising(TypeError("two\nlines")))
    assert execute(out, "ppo", 0, lambda fraction, words: True) == "failed"
    status = Store.open(out).run("ppo", 0).status
    assert status["error"] == "unexpected TypeError: two lines See traceback.txt in its folder."
    assert "raise error" in (out / "runs" / "ppo-s0" / "traceback.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("number", "file"),
    [
        (errno.ENOSPC, None),
        (errno.EIO, None),
        (errno.EACCES, "runs/ppo-s0/events.jsonl"),
        (errno.EIO, "base"),
    ],
)
def test_a_disk_that_refuses_is_everyones_affair(
    never_stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, file: str | None
) -> None:
    """No run fails for it: the comparison stops, and the run is neither done nor failed."""
    out = tmp_path / "out"
    shutil.copytree(never_stopped, out)
    said = os.strerror(number)
    monkeypatch.setattr("eval.run.train", raising(OSError(number, said, file and str(out / file))))
    with pytest.raises(UserError, match=f"cannot be written: .*{said}.*--resume {out}"):
        execute(out, "ppo", 0, lambda fraction, words: True)
    assert Store.open(out).run("ppo", 0).status == {"status": "missing"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EACCES, "Permission denied", "/elsewhere/model.safetensors"),
        OSError(errno.ENOSPC, "No space left on device", "/elsewhere/cache"),
        OSError("the hub cannot be reached"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_system_refuses_elsewhere_costs_its_run_alone(
    never_stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    out = tmp_path / "out"
    shutil.copytree(never_stopped, out)
    monkeypatch.setattr("eval.run.train", raising(error))
    assert execute(out, "ppo", 0, lambda fraction, words: True) == "failed"
    assert str(error) in Store.open(out).run("ppo", 0).status["error"]


def test_a_run_begins_where_its_own_reward_puts_the_base(small: SmallWorld, tmp_path: Path) -> None:
    """With --replicate-data every data seed may have a reward model of its own; the base is evaluated under the first."""
    experiment = Experiment(
        task="custom", model=small.model, prompts=small.prompts, reward=small.reward(), algos=("reinforce",), seeds=2,
        replicate_data=True, device="cpu", sampling=Sampling(max_new_tokens=6), eval=Evaluation(responses=2),
    )  # fmt: skip
    store = Store.create(tmp_path / "out", experiment)
    first = materials_of(experiment, ArtefactCache(Path(small.cache)), 0)
    second = replace(first, reward=replace(first.reward, where=small.reward("strict")))
    for seed, made in enumerate((first, second)):
        made.save(store.path / "materials" / str(seed))
    evaluate_base(store, first)
    policy = Policy.load(small.model, device="cpu")
    under_first, under_second = (
        _base_under(store, Evaluator(policy, made, experiment, store.base_samples), made)
        for made in (first, second)
    )
    with pytest.raises(UserError, match="answer other prompts than the test has"):
        Evaluator(policy, second, experiment).proxy_of([store.base_samples[0] | {"prompt": "another"}])
    assert under_first == store.base_metrics
    expected = Evaluator(policy, second, experiment)().metrics["reward/proxy"]
    assert under_second == {**store.base_metrics, "reward/proxy": expected}
    assert expected != store.base_metrics["reward/proxy"]
