"""`train()`: what its result depends on, and what it does not; what it learns from, and what it leaves as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tiny import rollouts_of, same_weights, tiny_policy
from tiny_runs import ALGORITHMS, run

from algos import PPO, REINFORCE, GuardedReward, RewardCalls
from algos.engine.algorithm import State
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_policy, score_reference


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_the_result_does_not_depend_on_the_micro_batch(name: str, micro_batch: int) -> None:
    whole, parts = tiny_policy(double=True), tiny_policy(double=True)
    rows = run(ALGORITHMS[name], whole, micro_batch=100).rows
    split = run(ALGORITHMS[name], parts, micro_batch=micro_batch).rows
    for left, right in zip(rows, split, strict=True):
        assert left.keys() == right.keys()
        for key in left.keys() - {"seconds"}:
            assert left[key] == pytest.approx(right[key], rel=1e-6, abs=1e-9), key
    for p, q in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)


@dataclass(frozen=True)
class Choosing(REINFORCE):
    """Learns from some of a batch's groups, in an order of its own, as dynamic sampling does."""

    def prepare(self, rollouts: Rollouts, state: State) -> tuple[Rollouts, State]:
        prepared, state = super().prepare(rollouts, state)
        return prepared.select(torch.arange(prepared.P).flip(0)[: self.kept]), state

    kept: int = 2


@pytest.mark.parametrize("kept", [3, 2, 1])
def test_the_groups_that_prepare_chose_are_learned_from(kept: int) -> None:
    """The first update's forward is made before, of the batch as it was sampled: it must not stand in for theirs."""
    algorithm = Choosing(learning_rate=0.1, kept=kept)
    policies = [tiny_policy(double=True) for _ in range(2)]
    for policy, micro_batch in zip(policies, (100, 1), strict=True):
        rows = run(algorithm, policy, micro_batch=micro_batch).rows
        assert rows[-1]["updates"] == len(rows)
    for p, q in zip(*(policy.model.parameters() for policy in policies), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)
    assert not same_weights(policies[0], tiny_policy(double=True))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_same_seed_is_bit_identical_and_another_differs(name: str) -> None:
    policies = [tiny_policy() for _ in range(3)]
    rows = [
        run(ALGORITHMS[name], policy, seed=seed).rows
        for policy, seed in zip(policies, (3, 3, 4), strict=True)
    ]
    assert same_weights(policies[0], policies[1])
    assert not same_weights(policies[0], policies[2])
    assert [{**row, "seconds": 0} for row in rows[0]] == [{**row, "seconds": 0} for row in rows[1]]


def test_the_global_random_state_decides_nothing() -> None:
    first, second = tiny_policy(), tiny_policy()
    torch.manual_seed(1)
    run(ALGORITHMS["ppo-separate"], first)
    torch.manual_seed(2)
    torch.rand(7)
    run(ALGORITHMS["ppo-separate"], second)
    assert same_weights(first, second)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_reference_does_not_move(name: str) -> None:
    policy = tiny_policy()
    rollouts = rollouts_of([[1]], [[[1, 2, 0], [2, 2]]])
    before = score_reference(policy, rollouts, 1.0)
    run(ALGORITHMS[name], policy)
    assert torch.equal(score_reference(policy, rollouts, 1.0), before)
    assert float((score_policy(policy, rollouts, 1.0)[0] - before).abs().max()) > 1e-3


def test_a_minibatch_without_a_loss_is_no_step() -> None:
    """Of four prompts one is scored: four minibatches make one step, and the log is that step's."""

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float | None]:
        return [
            float(len(text)) if prompt == "a b" else None
            for prompt, text in zip(prompts, completions, strict=True)
        ]

    careful = GuardedReward(reward, RewardCalls(allow_unscored=True))
    prompts = ["a", "b a b", "a b", "b"]
    options: dict[str, Any] = {"prompts": prompts, "reward": careful, "budget": "1iterations"}
    whole, parts = (
        run(
            PPO(learning_rate=1e-2, ppo_epochs=1, minibatches=count), tiny_policy(double=True), **options
        ).rows[0]
        for count in (1, 4)
    )
    assert parts["updates"] == whole["updates"] == 1
    for name in ("value_loss", "entropy/train", "policy_loss", "gradient_norm"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-9)
