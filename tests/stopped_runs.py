"""Short runs of every algorithm that keeps a state of its own, which can be stopped and gone on with."""

from __future__ import annotations

from typing import Any

from algos import DPO, PPO, REINFORCE, Algorithm, Policy, Sampling, train
from algos.engine.state import TrainState

PROMPTS = ["a", "b a b", "a b", "b", "b b a"]
PAIRS = [{"prompt": "a b", "chosen": " b" * n, "rejected": " a" * (8 - n)} for n in range(1, 8)]
SAMPLING = Sampling(max_new_tokens=4, group_size=3, prompts_per_iteration=3)
ALGORITHMS: dict[str, Algorithm] = {
    "reinforce": REINFORCE(learning_rate=1e-2, warmup=0.3),
    "reinforce-ema": REINFORCE(learning_rate=1e-2, baseline="ema"),
    "reinforce-value": REINFORCE(learning_rate=1e-2, baseline="value"),
    "ppo": PPO(learning_rate=1e-2, ppo_epochs=2, minibatches=2),
    "ppo-separate": PPO(learning_rate=1e-2, ppo_epochs=2, value_model="separate", value_learning_rate=3e-3),
    "ppo-adaptive": PPO(learning_rate=1e-2, kl_control="adaptive", kl_target=0.05, kl_horizon=20),
    "dpo": DPO(learning_rate=1e-2, epochs=2, batch_size=3),
    "dpo-online": DPO(learning_rate=1e-2),
}


class Stopped(Exception):
    """What ends a run from outside."""


def count_b(completions: list[str], **_: Any) -> list[float]:
    return [text.split().count("b") / 4 for text in completions]


def run(name: str, policy: Policy, stop_after: int | None = None, **options: Any) -> Any:
    """Trains on the recorded pairs (`dpo`) or the prompts, and raises Stopped after that many iterations."""

    def hook(state: TrainState, _: float) -> None:
        if stop_after is not None and state.iteration == stop_after:
            raise Stopped

    data: dict[str, Any] = {"pairs": PAIRS} if name == "dpo" else {"prompts": PROMPTS, "reward": count_b}
    algorithm = options.pop("algorithm", ALGORITHMS[name])
    return train(
        algorithm, policy, **{**data, "budget": "6iterations", "sampling": SAMPLING, "hook": hook} | options
    )
