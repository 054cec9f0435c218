"""A comparison that trains adapters, fresh ones or one that was saved: nothing of it holds or counts a copy too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import SmallWorld

from algos import REINFORCE, LoRA, Policy, Sampling, UserError
from algos.engine.models.loading import saved_adapter
from eval import run
from eval.experiment import Experiment
from eval.memory import room
from eval.memory.footprint import need_of
from eval.stages.cache import ArtefactCache
from eval.tasks import materials_of
from eval.tasks.custom import task

SAMPLING = Sampling(max_new_tokens=4, group_size=2, prompts_per_iteration=2)


@pytest.fixture(scope="module")
def adapter(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One that has been trained, so that it is not the base."""
    folder = tmp_path_factory.mktemp("adapter")
    policy = Policy.load(small.model, lora=LoRA(rank=3, alpha=5, targets="c_attn,c_proj"), device="cpu")
    with torch.no_grad():
        for weights in policy.trainable().values():
            weights.add_(0.01)
    policy.save(folder)
    return str(folder)


def experiment_of(small: SmallWorld, **changes: Any) -> Experiment:
    settings = {
        "model": small.model,
        "prompts": small.prompts,
        "reward": small.reward(),
        "algos": ["reinforce"],
    }
    return Experiment(task="custom", sampling=SAMPLING, device="cpu", **settings | changes)


def test_the_settings_of_a_saved_adapter_are_read(small: SmallWorld, adapter: str, tmp_path: Path) -> None:
    assert saved_adapter(adapter) == LoRA(rank=3, alpha=5, targets="c_attn,c_proj")
    assert saved_adapter(small.model) is None
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "base_model_name_or_path": "somewhere", "target_modules": ".*attn", "r": 2}'
    )
    assert saved_adapter(str(tmp_path)) == LoRA(rank=2, alpha=8, targets="all-linear")


def test_a_saved_adapter_needs_the_memory_of_adapters_and_a_copy(small: SmallWorld, adapter: str) -> None:
    algorithm = REINFORCE()
    fresh, saved, whole = (
        need_of(algorithm, room.load_of(experiment_of(small, **settings), 8)).standing
        for settings in (
            {"lora": True, "lora_settings": LoRA(rank=3, alpha=5, targets="c_attn,c_proj")}, {"model": adapter}, {},
        )
    )  # fmt: skip
    assert saved == fresh | {"reference": whole["reference"]}
    assert saved["optimizer"] < 0.5 * whole["optimizer"]


def test_no_remedy_for_a_saved_adapter_names_lora(
    small: SmallWorld, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "available", lambda device: 1)
    with pytest.raises(UserError) as refused:
        room.require_room(experiment_of(small, model=adapter), 8)
    assert "Neither --gradient-checkpointing nor" in str(refused.value)
    assert not any("--lora" in flags for _, flags in room._smaller(experiment_of(small, model=adapter)))
    with pytest.raises(UserError, match="Neither --lora nor"):
        room.require_room(experiment_of(small), 8)


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
def test_the_base_holds_no_copy_where_adapters_are_trained(
    small: SmallWorld, lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy would be as large as the model, in a comparison that needs none."""
    loaded: list[Policy] = []

    def noted(*args: Any, **options: Any) -> Policy:
        loaded.append(Policy.load(*args, **options))
        return loaded[-1]

    monkeypatch.setattr(task, "Policy", type("Noted", (), {"load": staticmethod(noted)}))
    experiment = experiment_of(small, lora=lora)
    materials = materials_of(experiment, ArtefactCache(tmp_path), 0)
    assert [policy._reference for policy in loaded] == [None]
    assert (run.load_base(experiment, materials)._reference is None) == lora
