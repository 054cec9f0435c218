"""Adapters and all weights both learn: on the built-in task, and on a real pretrained model where it is at hand."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stories import SAMPLING, held_out, rows
from tiny import ROLLOUTS, disturb, gpt2, llama, same_weights, word_tokenizer
from torch import nn

import run_compare
from algos import DPO, PPO, REINFORCE, Algorithm, LoRA, Policy, Sampling, train
from algos.engine.models.policy import with_adapter
from algos.engine.scoring import score_policy, score_reference
from algos.engine.state import TrainState
from algos.engine.storage import read_tensors, saved_states
from eval.memory.footprint import Load, need_of, standing_of

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


def adapted(targets: str = "all-linear") -> Policy:
    tokenizer = word_tokenizer("a b")
    lora = LoRA(rank=2, targets=targets)
    return Policy(with_adapter(llama(len(tokenizer)), lora), tokenizer, dtype="fp32")


def test_what_is_frozen_in_an_adapter_stays_so() -> None:
    """As in LoRA-FA, which trains one half of it: peft trains all of an adapter that it switches on again."""
    policy = adapted()
    for name, p in policy.model.named_parameters():
        if "lora_A" in name:
            p.requires_grad_(False)
    before = list(policy.trainable())
    with pytest.raises(LookupError), policy.reference():
        raise LookupError
    policy.reference_digest()
    assert list(policy.trainable()) == before
    first = {name: p.clone() for name, p in policy.model.named_parameters()}
    learn(policy, REINFORCE(learning_rate=1e-2))
    moved = {name for name, p in policy.model.named_parameters() if not torch.equal(p, first[name])}
    assert moved == set(before)


def learn(policy: Policy, algorithm: Algorithm, **options: Any) -> None:
    train(
        algorithm, policy, prompts=["a b", "b", "a"], budget="3iterations",
        reward=lambda completions, **_: [float(text.count("b")) for text in completions],
        sampling=Sampling(max_new_tokens=4, group_size=2, prompts_per_iteration=2), **options,
    )  # fmt: skip


SEPARATE = PPO(value_model="separate", learning_rate=1e-2, ppo_epochs=2)


def test_a_value_model_of_its_own_learns_by_adapters_too() -> None:
    """Of its own, on weights that are the policy's; it reads what the policy reads, and moves neither it nor them."""
    policy, states = adapted(), list[TrainState]()
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    learn(policy, SEPARATE, hook=lambda state, _: states.append(state))
    critic = states[-1].critic
    assert critic is not None
    trained = [name for name, p in critic.named_parameters() if p.requires_grad]
    assert {"lora" in name or name.startswith("head.") for name in trained} == {True}
    assert len(trained) == len(policy.trainable()) + 2
    theirs = {id(p) for p in policy.model.parameters()}
    shared = {name for name, p in critic.named_parameters() if id(p) in theirs}
    assert shared == {name for name, p in critic.named_parameters() if not p.requires_grad}
    for name, p in critic.named_parameters():
        if "lora_B" in name:
            assert p.any(), name
    for name, p in policy.model.named_parameters():
        assert torch.equal(p, before[name]) != ("lora_" in name), name
    trunk = policy.inner.base_model.parameters()
    assert critic.trunk_size == sum(p.numel() for p in trunk) - sum(
        p.numel() for p in policy.trainable().values()
    )
    assert sum(p.numel() for p in states[-1].parameters) == sum(
        p.numel() for model in (policy.model, critic) for p in model.parameters() if p.requires_grad
    )


def test_its_memory_is_that_of_its_adapters() -> None:
    policy = adapted()
    critic = TrainState.start(SEPARATE, policy, 0).critic
    assert critic is not None
    own = sum(p.numel() for p in critic.parameters() if p.requires_grad)
    load = Load(
        policy.inner.config,
        prompt_tokens=2,
        sampling=Sampling(max_new_tokens=2),
        dtype=torch.float32,
        lora=LoRA(rank=2),
    )
    standing = standing_of(SEPARATE, load)
    assert standing["value function"] == 4 * own
    assert standing["optimizer"] == 8 * (own + sum(p.numel() for p in policy.trainable().values()))


def test_its_backward_pass_has_no_gradient_of_what_is_frozen() -> None:
    """As estimated: with few tokens a gradient of all weights would be most of it."""
    model = llama(16, width=128)
    load = Load(
        model.config, 2, Sampling(max_new_tokens=2, prompts_per_iteration=1), torch.float32, LoRA(rank=2)
    )
    separate, shared = (need_of(PPO(value_model=kind), load) for kind in ("separate", "shared"))
    trunk = sum(p.nbytes for p in model.base_model.parameters())
    assert separate.phases["training"] - shared.phases["training"] < trunk / 2


def test_its_checkpoint_holds_its_adapters_alone(tmp_path: Path) -> None:
    straight, again = adapted(), adapted()
    learn(straight, SEPARATE)

    class Stopped(Exception):
        pass

    def stop(state: TrainState, _: float) -> None:
        if state.iteration == 2:
            raise Stopped

    with pytest.raises(Stopped):
        learn(adapted(), SEPARATE, hook=stop, checkpoint=tmp_path, checkpoint_every=1)
    (saved,) = saved_states(tmp_path)
    names = [name for name in read_tensors(saved / "state.safetensors") if name.startswith("critic/")]
    assert {"lora_" in name or name.startswith("critic/head.") for name in names} == {True}
    learn(again, SEPARATE, checkpoint=tmp_path)
    assert same_weights(straight, again)


def test_weights_that_are_integers_are_no_obstacle_to_it() -> None:
    """As quantised ones are."""
    tokenizer = word_tokenizer("a b")
    model = with_adapter(llama(len(tokenizer)), LoRA(rank=2))
    layer = model.get_base_model().model.layers[0].mlp
    layer.register_parameter("absmax", nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False))
    learn(Policy(model, tokenizer, dtype="fp32"), SEPARATE)


REVIEWS = {
    "all weights": (),
    "adapters": ("--lora", "--reinforce.learning-rate", "5e-3", "--ppo.learning-rate", "3e-3", "--dpo.learning-rate", "1e-3"),
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in task's base and reward model, made once."""
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
