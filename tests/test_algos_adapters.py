"""Adapters and all weights both learn: on the embedded task, and on a real pretrained model where it is at hand."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_algos_policy import ROLLOUTS, disturb
from test_algos_stories import SAMPLING, held_out, rows
from tiny import gpt2, word_tokenizer

import run_compare
from algos import DPO, PPO, REINFORCE, Algorithm, LoRA, Policy, train
from algos.engine.scoring import score_policy, score_reference

STORIES: dict[str, tuple[Algorithm, str]] = {
    "reinforce": (REINFORCE(beta=0.02, learning_rate=1e-2), "15iterations"),
    "ppo": (PPO(beta=0.02, learning_rate=5e-3), "15iterations"),
    "dpo": (DPO(beta=0.1, learning_rate=5e-3, batch_size=16), "12iterations"),
}


@pytest.mark.parametrize(
    "name", ["dpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("reinforce", "ppo"))]
)
def test_adapters_on_a_real_model_raise_the_reward(name: str, shared_data: Path) -> None:
    """As `test_a_short_training_raises_the_reward` has it of all weights."""
    spec = importlib.util.spec_from_file_location("sentiment_reward", shared_data / "sentiment_reward.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    policy = Policy.load(shared_data / "stories260k", lora=LoRA(rank=8, alpha=16), device="cpu", dtype="fp32")
    start = held_out(policy, shared_data, module.vader)
    data: dict[str, Any] = {
        "prompts": rows(shared_data / "stories_prompts.jsonl", 64),
        "reward": module.vader,
    }
    if name == "dpo":
        data = {"pairs": rows(shared_data / "stories_pairs.jsonl", 200)}
    algorithm, budget = STORIES[name]
    before = policy.reference_digest()
    train(algorithm, policy, sampling=SAMPLING, budget=budget, **data)
    assert held_out(policy, shared_data, module.vader) > start + 0.1
    assert policy.reference_digest() == before
    assert sum(p.numel() for p in policy.trainable().values()) < 0.3 * policy.size


@pytest.mark.parametrize(
    "beside", [{"bias": "all"}, {"modules_to_save": ["ln_f"]}, {"trainable_token_indices": {"wte": [1]}}]
)
def test_a_fresh_adapter_beside_which_more_is_trained_has_a_frozen_copy(beside: dict[str, Any]) -> None:
    """Switched off it would leave the biases as they have become, and the run would end with a changed reference."""
    from peft import LoraConfig, get_peft_model

    tokenizer = word_tokenizer("a b")
    config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM", **beside)
    policy = Policy(get_peft_model(gpt2(len(tokenizer)), config), tokenizer, dtype="fp32")
    assert any("lora_" not in name for name in policy.trainable())
    assert not policy.adapter_is_reference
    at_first, digest = score_reference(policy, ROLLOUTS, 1.0), policy.reference_digest()
    assert torch.equal(score_policy(policy, ROLLOUTS, 1.0)[0], at_first)
    disturb(policy)
    assert float((score_policy(policy, ROLLOUTS, 1.0)[0] - at_first).abs().max()) > 0.01
    assert torch.equal(score_reference(policy, ROLLOUTS, 1.0), at_first)
    assert policy.reference_digest() == digest


REVIEWS = {
    "all weights": (),
    "adapters": ("--lora", "--reinforce.learning-rate", "5e-3", "--ppo.learning-rate", "3e-3", "--dpo.learning-rate", "1e-3"),
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded task's base and reward model, made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("kind", REVIEWS)
def test_all_weights_and_adapters_learn_on_reviews(kind: str, cache: Path, tmp_path: Path) -> None:
    arguments = ("--seeds", "1", "--budget", "1e11flops", "--frontier.samples", "0", "--eval.points", "1",
                 "--cache", str(cache), "--out", str(tmp_path / "out"), *REVIEWS[kind])  # fmt: skip
    assert run_compare.main(arguments) == 0
    for arm in ("reinforce", "ppo", "dpo"):
        lines = (tmp_path / f"out/runs/{arm}-s0/rows.jsonl").read_text(encoding="utf-8").splitlines()
        start, end = (json.loads(line)["metrics"] for line in (lines[0], lines[-1]))
        assert end["reward/proxy"] > start["reward/proxy"] + 0.1
        assert end["win_rate"] > 0.57
        saved = {file.name for file in (tmp_path / f"out/runs/{arm}-s0/policy").iterdir()}
        assert ("adapter_model.safetensors" in saved) == (kind == "adapters")
        assert ("model.safetensors" in saved) == (kind == "all weights")
