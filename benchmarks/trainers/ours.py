"""Ours on a case, through the public API."""

from __future__ import annotations

from typing import Any

from algos import DPO, PPO, REINFORCE, Algorithm, Policy, Sampling, train
from benchmarks.trainers.gate import Gate
from benchmarks.trainers.worlds import GROUP, PPO_EPOCHS, RESPONSE_TOKENS, SEQUENCES, Case, last_is_odd

RATE = 1e-6
ALGORITHMS: dict[str, Algorithm] = {
    "dpo": DPO(learning_rate=RATE, batch_size=SEQUENCES // 2),
    "reinforce": REINFORCE(learning_rate=RATE, baseline="leave_one_out"),
    "ppo": PPO(learning_rate=RATE, ppo_epochs=PPO_EPOCHS, value_model="shared"),
    "ppo-separate": PPO(learning_rate=RATE, ppo_epochs=PPO_EPOCHS, value_model="separate"),
}


def prompts_a_step(name: str) -> int:
    """Of `SEQUENCES` responses: groups for the leave-one-out baseline, one response a prompt for PPO."""
    return SEQUENCES // GROUP if name == "reinforce" else SEQUENCES


def ours(case: Case, name: str, gate: Gate) -> None:
    """Trains until the gate says no more."""
    policy = Policy.load(case.model, dtype=case.dtype)
    prompts = prompts_a_step(name)
    sampling = Sampling(
        max_new_tokens=RESPONSE_TOKENS, group_size=SEQUENCES // prompts, prompts_per_iteration=prompts
    )
    data: dict[str, Any] = (
        {"pairs": case.pairs}
        if name == "dpo"
        else {"prompts": case.prompts, "reward": last_is_odd, "budget": f"{case.steps}iterations"}
    )
    train(ALGORITHMS[name], policy, sampling=sampling, hook=lambda *_: gate(), **data)
