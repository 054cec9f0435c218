"""Short runs through `train()` on a tiny policy, for the tests of the engine."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from tiny import tiny_policy

from algos import DPO, PPO, REINFORCE, Algorithm, History, Policy, Sampling, train
from algos.engine.algorithm import Outputs
from algos.engine.rollouts import Rollouts

PROMPTS = ["a", "b a b", "a b", "b"]
SAMPLING = Sampling(max_new_tokens=5, group_size=4, prompts_per_iteration=4)
PAIRS = [{"prompt": "a b", "chosen": " b" * n, "rejected": " a" * (6 - n)} for n in range(1, 6)] + [
    {"prompt": "b", "chosen": " b a", "rejected": " a b a a"}
]
ALGORITHMS = {
    "reinforce": REINFORCE(learning_rate=1e-2, aggregation="token_mean"),
    "ppo": PPO(learning_rate=1e-2, ppo_epochs=2, minibatches=2),
    "ppo-separate": PPO(learning_rate=1e-2, value_model="separate"),
    "value": REINFORCE(learning_rate=1e-2, baseline="value"),
    "dpo": DPO(learning_rate=1e-2, epochs=2, batch_size=4),
}


def count_b(completions: list[str], **_: Any) -> list[float]:
    return [text.split().count("b") / 5 for text in completions]


def run(
    algorithm: Algorithm, policy: Policy | None = None, budget: str = "3iterations", **options: Any
) -> History:
    """Trains a fresh tiny policy on the recorded pairs (DPO) or the prompts."""
    data: dict[str, Any] = (
        {"pairs": PAIRS} if isinstance(algorithm, DPO) else {"prompts": PROMPTS, "reward": count_b}
    )
    data |= {"sampling": SAMPLING, "budget": budget} | options
    return train(algorithm, policy or tiny_policy(), **data)


def spy(algorithm: Algorithm) -> Any:
    """The same algorithm, remembering what its loss was given."""
    kind = type(algorithm)

    class Spy(kind):  # type: ignore[misc, valid-type]
        calls: list[tuple[Outputs, Rollouts]] = []  # noqa: RUF012

        def loss(self, outputs: Outputs, prepared: Rollouts) -> Any:
            self.calls.append((outputs, prepared))
            return super().loss(outputs, prepared)

    return Spy(**{field.name: getattr(algorithm, field.name) for field in fields(algorithm)})


def first_batch(algorithm: Algorithm, **options: Any) -> tuple[Rollouts, dict[str, float]]:
    """What the first loss of a run of one iteration was given, and what was logged."""
    seen = spy(algorithm)
    row = run(seen, budget="1iterations", **options).rows[0]
    return seen.calls[0][1], row
