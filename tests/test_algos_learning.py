"""Every algorithm, baseline and loss learns something trivial through `train()`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import gpt2, tiny_policy, word_tokenizer
from tiny_runs import PROMPTS, SAMPLING, count_b, run

from algos import DPO, PPO, REINFORCE, Policy

LEARNERS = {
    **{
        f"reinforce-{b}": REINFORCE(beta=0.02, baseline=b, learning_rate=2e-2)
        for b in ("none", "ema", "batch_mean", "leave_one_out", "greedy", "value")
    },
    "reinforce-to-go": REINFORCE(beta=0.02, reward_to_go=True, learning_rate=2e-2),
    "reinforce-token_mean": REINFORCE(beta=0.02, aggregation="token_mean", learning_rate=2e-2),
    "ppo": PPO(beta=0.02, learning_rate=2e-2),
    "ppo-separate": PPO(
        beta=0.02, learning_rate=2e-2, value_model="separate", minibatches=2, whiten_rewards=True
    ),
    "ppo-adaptive": PPO(
        beta=0.02, learning_rate=2e-2, kl_control="adaptive", clip_range_high=0.3, dual_clip=3.0
    ),
    "dpo-online": DPO(beta=0.1, learning_rate=1e-2),
}


def mean_reward(policy: Policy) -> float:
    from algos import sample
    from algos.engine.batches.prompts import encode_prompts
    from algos.engine.batches.sampled import score

    rows, _ = encode_prompts(policy, PROMPTS, 5)
    rollouts = sample(policy, [row.ids for row in rows], replace(SAMPLING, group_size=64), 99)
    return float(score(policy, rows, rollouts, count_b).mean())


@pytest.mark.parametrize("name", LEARNERS)
def test_every_algorithm_learns_to_prefer_a_word(name: str) -> None:
    policy = tiny_policy()
    start = mean_reward(policy)
    options: dict[str, Any] = {"prompts": PROMPTS, "pairs": None, "reward": count_b}
    run(LEARNERS[name], policy, budget="25iterations", sampling=replace(SAMPLING, group_size=8), **options)
    assert start < 0.5
    assert mean_reward(policy) > 0.85


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_normalised", "robust", "hinge", "ipo", "ipo_average"])
@pytest.mark.parametrize("reference_free", [False, True])
def test_every_dpo_loss_learns_to_order_pairs(loss: str, reference_free: bool) -> None:
    policy = tiny_policy()
    algorithm = DPO(
        loss_type=loss, reference_free=reference_free, learning_rate=5e-3, epochs=20, batch_size=6
    )
    rows = run(algorithm, policy, budget=None).rows
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    if not reference_free:  # the margin is measured against the reference, whatever the loss is
        assert rows[0]["margin"] == pytest.approx(0, abs=1e-5)
        assert rows[-1]["accuracy"] == 1
        assert rows[-1]["margin"] > 0.1


def test_lora_learns_with_its_base_frozen() -> None:
    from peft import LoraConfig, get_peft_model

    tokenizer = word_tokenizer("a b")
    base = gpt2(len(tokenizer))
    before = {name: p.clone() for name, p in base.named_parameters()}
    torch.manual_seed(0)  # peft draws the adapter from the global generator
    model = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    policy = Policy(model, tokenizer, dtype="fp32")
    start = mean_reward(policy)
    row = run(PPO(beta=0.02, learning_rate=3e-2), policy, budget="20iterations").rows[0]
    assert row["kl/train"] == 0
    assert mean_reward(policy) > start + 0.2
    frozen = {name: p for name, p in model.get_base_model().named_parameters() if "lora_" not in name}
    assert len(frozen) == len(before)
    for name, p in frozen.items():
        assert torch.equal(p, before[name.replace(".base_layer", "")])
