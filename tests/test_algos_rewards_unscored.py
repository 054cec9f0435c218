"""Responses that a reward leaves unscored, where that is allowed, are in no baseline and in no loss."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import Table, same_weights, tiny_policy
from tiny_runs import run

from algos import DPO, PPO, REINFORCE, Algorithm, Sampling
from algos.advantages import leave_one_out
from algos.engine.algorithm import Outputs
from algos.engine.batches.sampled import learnable
from algos.engine.calls import GuardedReward, RewardCalls, RewardError
from algos.engine.monitor import describe
from algos.engine.rollouts import Rollouts

ALLOWED = RewardCalls(reward_retries=0, allow_unscored=True)
ALGORITHMS: dict[str, Algorithm] = {
    "none": REINFORCE(baseline="none"),
    "ema": REINFORCE(baseline="ema"),
    "batch_mean": REINFORCE(baseline="batch_mean"),
    "leave_one_out": REINFORCE(),
    "greedy": REINFORCE(baseline="greedy"),
    "value": REINFORCE(baseline="value"),
    "reward_to_go": REINFORCE(reward_to_go=True),
    "group_std": REINFORCE(scale_by_group_std=True),
    "token_mean": REINFORCE(aggregation="token_mean"),
    "ppo": PPO(),
    "ppo-whitened-rewards": PPO(whiten_rewards=True),
    "dpo-online": DPO(on_policy=True),
}


def unscored(rollouts: Rollouts, kept: int) -> Rollouts:
    """Only the first `kept` responses of each group have a score."""
    learnable_PG = torch.zeros_like(rollouts.ended_PG)
    learnable_PG[:, :kept] = True
    assert rollouts.scores_PG is not None
    return replace(
        rollouts, scores_PG=rollouts.scores_PG.masked_fill(~learnable_PG, math.nan), learnable_PG=learnable_PG
    )


def learned(algorithm: Algorithm, table: Table, rollouts: Rollouts) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Loss, its gradient and the state after one batch."""
    state = algorithm.init_state()
    prepared, state = algorithm.prepare(rollouts, state)
    index = [
        [table.responses.index(ids[mask].tolist()) for ids, mask in zip(group, masks, strict=True)]
        for group, masks in zip(prepared.response_ids_PGT, prepared.mask_PGT, strict=True)
    ]
    logits = table.logits.detach().clone().requires_grad_()
    logps_PGT = table.logps(logits)[torch.tensor(index)]
    values_PGT = table.values[torch.tensor(index)] + logits.sum() * 0
    loss, _ = algorithm.loss(Outputs(logps_PGT, torch.zeros_like(logps_PGT), values_PGT), prepared)
    return loss.detach(), torch.autograd.grad(loss, logits)[0], state


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_loss_is_that_of_the_scored_responses_alone(name: str) -> None:
    algorithm, table = ALGORITHMS[name], Table()
    some = table.rollouts([[0, 5, 9], [7, 3, 2]])
    few = table.rollouts([[0, 5], [7, 3]])
    loss, gradient, state = learned(algorithm, table, unscored(some, 2))
    expected, expected_gradient, expected_state = learned(algorithm, table, few)
    assert bool(gradient.isfinite().all())
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    assert float(gradient.abs().max()) > 0
    for key in expected_state:
        torch.testing.assert_close(state[key], expected_state[key])


def test_leave_one_out_by_hand() -> None:
    returns = torch.tensor([[1.0, 3.0, math.nan, 8.0]])
    scored = torch.tensor([[True, True, False, True]])
    found = leave_one_out(returns, scored)
    assert found[0, [0, 1, 3]].tolist() == [5.5, 4.5, 2.0]


# What is left to learn from ------------------------------------------------------------------------------


def left(*scores: list[float], greedy: list[float] | None = None, min_group_size: int = 1) -> Any:
    greedy_P = None if greedy is None else torch.tensor(greedy)
    return learnable(torch.tensor(scores), greedy_P, min_group_size).tolist()


def test_what_can_be_learned_from() -> None:
    nan = math.nan
    assert left([1, 2], [3, 4]) == [[True, True], [True, True]]
    assert left([1, nan], [3, 4]) == [[True, False], [True, True]]
    # Alone in its group it has no other to be compared with.
    assert left([1, nan], [3, 4], min_group_size=2) == [[False, False], [True, True]]
    assert left([1, 2], [3, 4], greedy=[nan, 0]) == [[False, False], [True, True]]


def test_a_prompt_of_which_nothing_is_scored_is_left_out() -> None:
    nan = math.nan
    for min_group_size in (1, 2):
        assert left([1, 2], [nan, nan], min_group_size=min_group_size) == [[True, True], [False, False]]


def test_something_must_be_left() -> None:
    with pytest.raises(RewardError, match="scored none of the 4 responses of an iteration"):
        left([math.nan, math.nan], [math.nan, math.nan])
    with pytest.raises(RewardError, match="no prompt has 2 to learn from"):
        left([1, math.nan], [math.nan, 2], min_group_size=2)


# In training ---------------------------------------------------------------------------------------------


def some_none(completions: list[str], **_: Any) -> list[float | None]:
    """No score for what has no `b` in it, at most half of a group."""
    scores: list[float | None] = [float(text.split().count("b")) for text in completions]
    for i in range(0, len(scores), 4):
        if scores[i] == 0:
            scores[i] = None
    return scores


@pytest.mark.parametrize("name", ALGORITHMS)
def test_training_goes_on_without_them(name: str) -> None:
    policy = tiny_policy()
    algorithm = replace(ALGORITHMS[name], learning_rate=1e-2)
    # A greedy response is a group of one, which must be scored.
    reward = (
        some_none
        if name != "greedy"
        else (lambda completions, **_: [None if i == 1 else 1.0 for i in range(len(completions))])
    )
    data: dict[str, Any] = {"pairs": None} if name == "dpo-online" else {}
    rows = run(algorithm, policy, reward=GuardedReward(reward, ALLOWED), prompts=["a", "b"], budget="4iterations", **data,
               sampling=Sampling(max_new_tokens=5, group_size=4, prompts_per_iteration=4)).rows  # fmt: skip
    assert any(row.get("unscored/train", 0) > 0 for row in rows)
    assert all(math.isfinite(value) for row in rows for value in row.values())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_training_goes_on_without_all_responses_to_a_prompt(name: str) -> None:
    def only_a(prompts: list[str], completions: list[str], **_: Any) -> list[float | None]:
        return [float(len(set(text))) + i % 3 if prompt == "a" else None
                for i, (prompt, text) in enumerate(zip(prompts, completions, strict=True))]  # fmt: skip

    policy = tiny_policy()
    rows = run(replace(ALGORITHMS[name], learning_rate=1e-2), policy, reward=GuardedReward(only_a, ALLOWED),
               prompts=["a", "b"], pairs=None, budget="3iterations",
               sampling=Sampling(max_new_tokens=5, group_size=4, prompts_per_iteration=4)).rows  # fmt: skip
    assert [row["unscored/train"] for row in rows] == [0.5] * 3
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert not same_weights(policy, tiny_policy())


def test_their_share_is_told_only_where_there_are_any() -> None:
    rollouts = Table().rollouts([[0, 5], [7, 3]])
    rollouts = replace(rollouts, sampler_logps_PGT=rollouts.logps_PGT)
    some = unscored(rollouts, 1)
    assert describe(some, some, {})["unscored/train"] == 0.5
    # An unscored greedy response leaves out a prompt all of whose sampled ones have a score.
    left_out = replace(rollouts, learnable_PG=torch.tensor([[False, False], [True, True]]))
    assert "unscored/train" not in describe(left_out, left_out, {})


def test_where_all_are_scored_nothing_differs() -> None:
    def score(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    plain, allowed = tiny_policy(), tiny_policy()
    run(PPO(learning_rate=1e-2), plain, reward=score)
    rows = run(PPO(learning_rate=1e-2), allowed, reward=GuardedReward(score, ALLOWED)).rows
    assert same_weights(plain, allowed)
    assert "unscored/train" not in rows[0]
