"""Advantages against numbers worked out by hand and an independent, naive computation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Table
from torch import Tensor

from algos import PPO, REINFORCE
from algos.advantages import gae, group_mean_std, leave_one_out, reward_to_go, token_rewards, whiten
from algos.engine.monitor import describe


def f64(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def random_batch(lengths: list[int], width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(rewards, values, mask) of responses with these lengths; numbers off the mask are noise."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    rewards, values = (
        torch.randn(len(lengths), width, generator=random, dtype=torch.float64) for _ in range(2)
    )
    return rewards, values, mask


def naive_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """Σ_k (γλ)^k δ_{t+k}, straight from the definition, for one response."""
    n = len(rewards)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < n else 0.0) - values[t] for t in range(n)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)]


def test_statistics_of_groups_by_hand() -> None:
    x = torch.tensor([[1.0, 3.0, 8.0], [2.0, 2.0, 5.0]], dtype=torch.float64)
    mean, std = group_mean_std(x)
    assert mean.squeeze(-1).tolist() == [4.0, 3.0]
    assert std.squeeze(-1).tolist() == pytest.approx([13**0.5, 3**0.5])


def test_a_group_of_one_has_no_deviation_and_is_not_nan() -> None:
    mean, std = group_mean_std(torch.tensor([[3.0], [5.0]]))
    assert mean.tolist() == [[3.0], [5.0]]
    assert std.tolist() == [[0.0], [0.0]]


def test_statistics_of_groups_leave_out_what_is_not_counted() -> None:
    """Whatever stands there: scores that a reward left out are NaN."""
    nan = float("nan")
    x = torch.tensor([[1.0, nan, 3.0], [nan, 7.0, nan], [nan, nan, nan]], dtype=torch.float64)
    mean, std = group_mean_std(x, ~x.isnan())
    assert mean.squeeze(-1).tolist() == [2.0, 7.0, 0.0]
    assert std.squeeze(-1).tolist() == pytest.approx([2**0.5, 0.0, 0.0])
    all_of_them = group_mean_std(x[:1, ::2], torch.ones(1, 2, dtype=torch.bool))
    for found, expected in zip(all_of_them, group_mean_std(x[:1, ::2]), strict=True):
        torch.testing.assert_close(found, expected)


lengths = st.lists(st.integers(1, 6), min_size=1, max_size=5)
unit = st.floats(0, 1)


def test_gae_by_hand() -> None:
    """r = 0, 0, 1; V = .5, .5, .5; γ = .9, λ = .5: δ = −.05, −.05, .5."""
    mask = torch.ones(3, dtype=torch.bool)
    advantages, returns = gae(f64([0, 0, 1]), f64([0.5, 0.5, 0.5]), mask, 0.9, 0.5)
    assert advantages.tolist() == pytest.approx([-0.05 + 0.45 * 0.175, -0.05 + 0.45 * 0.5, 0.5])
    assert returns.tolist() == pytest.approx([a + 0.5 for a in advantages.tolist()])


@settings(max_examples=40, deadline=None)
@given(lengths, unit, unit, st.integers(0, 1000))
def test_gae_agrees_with_the_definition(lengths: list[int], gamma: float, lam: float, seed: int) -> None:
    rewards, values, mask = random_batch(lengths, 6, seed)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for i, n in enumerate(lengths):
        naive = naive_gae(rewards[i, :n].tolist(), values[i, :n].tolist(), gamma, lam)
        assert advantages[i, :n].tolist() == pytest.approx(naive, abs=1e-9)
        assert returns[i, :n].tolist() == pytest.approx((f64(naive) + values[i, :n]).tolist(), abs=1e-9)
    assert float(advantages[~mask].abs().sum() + returns[~mask].abs().sum()) == 0


@settings(max_examples=20, deadline=None)
@given(lengths, st.integers(0, 1000))
def test_limits_of_lambda(lengths: list[int], seed: int) -> None:
    """λ = 1: what is still to come less the value. λ = 0: the one-step error."""
    rewards, values, mask = random_batch(lengths, 6, seed)
    whole, returns = gae(rewards, values, mask, 1.0, 1.0)
    torch.testing.assert_close(returns, reward_to_go(rewards, mask))
    torch.testing.assert_close(whole[mask], (reward_to_go(rewards, mask) - values)[mask])
    one_step, _ = gae(rewards, values, mask, 1.0, 0.0)
    inside = torch.where(mask, values, 0.0)
    following = torch.cat([inside[:, 1:], torch.zeros(len(lengths), 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(one_step[mask], (rewards + following - values)[mask])


def test_nan_in_the_padding_stays_there() -> None:
    rewards, values, mask = random_batch([2, 3], 3, 0)
    dirty = [torch.where(mask, x, torch.nan) for x in (rewards, values)]
    for clean, found in zip(gae(rewards, values, mask), gae(*dirty, mask), strict=True):
        torch.testing.assert_close(clean, found)
    torch.testing.assert_close(whiten(rewards, mask), whiten(dirty[0], mask))
    torch.testing.assert_close(reward_to_go(rewards, mask), reward_to_go(dirty[0], mask))


def test_reward_to_go_by_hand() -> None:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = reward_to_go(f64([1, 2, 3, 4, 5, 6]).reshape(2, 3), mask)
    assert found.tolist() == [[6, 5, 3], [9, 5, 0]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6))
def test_leave_one_out_is_n_over_n_minus_one_times_the_distance_to_the_mean(returns: list[float]) -> None:
    R, n = f64(returns), len(returns)
    torch.testing.assert_close(R - leave_one_out(R), n / (n - 1) * (R - R.mean()), atol=1e-9, rtol=1e-9)
    for i in range(n):
        others = [r for j, r in enumerate(returns) if j != i]
        assert float(leave_one_out(R)[i]) == pytest.approx(sum(others) / (n - 1), abs=1e-9)


def test_leave_one_out_keeps_groups_apart_and_needs_two() -> None:
    assert leave_one_out(f64([1, 2, 6, 10, 20, 60]).reshape(2, 3)).tolist() == [[4, 3.5, 1.5], [40, 35, 15]]
    with pytest.raises(ValueError, match="at least 2 responses"):
        leave_one_out(f64([1.0]).reshape(1, 1))


def test_whiten_by_hand() -> None:
    """Of 1, 3 the mean is 2 and the *population* variance 1."""
    x, mask = f64([1, 3, 50]), torch.tensor([True, True, False])
    assert whiten(x, mask).tolist() == pytest.approx([-1, 1, 0])
    assert whiten(x, mask, shift_mean=False).tolist() == pytest.approx([1, 3, 0])
    assert whiten(2 * x, mask, shift_mean=False).tolist() == pytest.approx([3, 5, 0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.floats(0.1, 10), st.floats(-5, 5))
def test_whiten_undoes_any_shift_and_scale(numbers: list[float], scale: float, shift: float) -> None:
    x, mask = f64(numbers), torch.ones(len(numbers), dtype=torch.bool)
    if float(x.std(correction=0)) < 0.1:
        return
    white = whiten(x, mask)
    assert float(white.mean()) == pytest.approx(0, abs=1e-9)
    assert float(white.std(correction=0)) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(whiten(scale * x + shift, mask), white, atol=1e-3, rtol=1e-3)


def test_equal_advantages_whiten_to_zero_not_nan() -> None:
    assert whiten(torch.full((4,), 3.0), torch.ones(4, dtype=torch.bool)).tolist() == pytest.approx(
        [0] * 4, abs=1e-3
    )


def test_token_rewards_by_hand() -> None:
    """The score stands at the last real token, EOS or not; the KL of a fixed token costs nothing."""
    logps = f64([-1, -2, -3, -1, -2, -3]).reshape(1, 2, 3).requires_grad_()
    ref = f64([-2, -2, -5, -1, -5, -3]).reshape(1, 2, 3)
    mask = torch.tensor([[[True, True, True], [True, True, False]]])
    loss_mask = mask.clone()
    loss_mask[0, 0, 0] = False
    rewards = token_rewards(f64([10, 20]).reshape(1, 2), logps, ref, mask, loss_mask, 0.5)
    assert not rewards.requires_grad
    assert rewards.tolist() == [[[0, 0, 10 - 1], [0, 20 - 1.5, 0]]]


def test_ppo_whitens_over_the_batch_and_learns_returns_from_unwhitened_advantages() -> None:
    table = Table()
    rollouts = table.rollouts([[0, 5, 9], [14, 2, 7]])
    plain, _ = PPO(whiten_advantages=False).prepare(rollouts, {})
    white, _ = PPO(whiten_advantages=True).prepare(rollouts, {})
    assert plain.advantages_PGT is not None
    assert white.advantages_PGT is not None
    torch.testing.assert_close(white.returns_PGT, plain.returns_PGT)
    torch.testing.assert_close(white.returns_PGT, plain.advantages_PGT + rollouts.values_PGT)
    counted = white.advantages_PGT[rollouts.mask_PGT]
    assert float(counted.mean()) == pytest.approx(0, abs=1e-9)
    assert float(counted.std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_reward_whitening_keeps_the_mean() -> None:
    """With V = 0, λ = 0 and γ = 0 the advantages are the token rewards themselves."""
    table = Table()
    rollouts = table.rollouts([[0, 5, 9], [14, 2, 7]])
    rollouts = replace(rollouts, values_PGT=torch.zeros_like(rollouts.values_PGT))
    options = {"whiten_advantages": False, "gae_lambda": 0.0, "gamma": 0.0}
    plain, _ = PPO(**options).prepare(rollouts, {})
    white, _ = PPO(whiten_rewards=True, **options).prepare(rollouts, {})
    before, after = (x.advantages_PGT[rollouts.mask_PGT] for x in (plain, white))
    assert float(after.mean()) == pytest.approx(float(before.mean()))
    assert float(after.std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_rewards_are_whitened_over_the_tokens_that_were_sampled() -> None:
    """A greedy prefix has no KL, and its noughts are no rewards."""
    table = Table()
    rollouts = table.rollouts([[3, 5, 9], [14, 2, 7]])
    fixed_PGT = torch.zeros_like(rollouts.mask_PGT)
    fixed_PGT[..., 0] = True
    rollouts = replace(rollouts, values_PGT=torch.zeros_like(rollouts.values_PGT), fixed_PGT=fixed_PGT)
    options = {"whiten_advantages": False, "gae_lambda": 0.0, "gamma": 0.0}
    plain, _ = PPO(**options).prepare(rollouts, {})
    white, _ = PPO(whiten_rewards=True, **options).prepare(rollouts, {})
    before, after = (x.advantages_PGT[rollouts.loss_mask_PGT] for x in (plain, white))
    assert float(after.mean()) == pytest.approx(float(before.mean()))
    assert float(after.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert not bool(white.advantages_PGT[fixed_PGT].any())


def test_adaptive_kl_follows_its_formula_and_stays_within_its_clip() -> None:
    table = Table()
    rollouts = table.rollouts([[0, 5], [14, 2]])
    kl = float((rollouts.logps_PGT - rollouts.ref_logps_PGT).sum(-1).mean())
    for target, horizon in ((abs(kl) * 0.9, 50), (abs(kl) * 10, 50), (0.001, 50), (0.001, 0.5)):
        algorithm = PPO(beta=0.2, kl_control="adaptive", kl_target=target, kl_horizon=horizon)
        prepared, state = algorithm.prepare(rollouts, algorithm.init_state())
        error = min(max(kl / target - 1, -0.2), 0.2)
        assert float(state["beta"]) == pytest.approx(0.2 * (1 + error * min(4 / horizon, 1)))
        fixed, _ = PPO(beta=0.2).prepare(rollouts, {})
        torch.testing.assert_close(prepared.returns_PGT, fixed.returns_PGT)  # used as it was, then adapted


def test_the_kl_of_far_tokens_is_whole_wherever_it_is_read() -> None:
    """In the reward, in adaptive control and in the log: 50 nats a token beyond those that there are."""
    table = Table()
    near = table.rollouts([[0, 5], [14, 2]])
    assert near.ref_logps_PGT is not None
    far = replace(near, ref_logps_PGT=near.ref_logps_PGT - 50)
    kl = float(torch.where(far.mask_PGT, far.logps_PGT - far.ref_logps_PGT, 0.0).sum(-1).mean())
    rewards = [
        token_rewards(x.scores_PG, x.logps_PGT, x.ref_logps_PGT, x.mask_PGT, x.mask_PGT, 0.2)
        for x in (near, far)
    ]
    torch.testing.assert_close(rewards[1], torch.where(near.mask_PGT, rewards[0] - 0.2 * 50, 0.0))
    algorithm = PPO(beta=0.2, kl_control="adaptive", kl_target=kl, kl_horizon=50)
    prepared, state = algorithm.prepare(far, algorithm.init_state())
    assert float(state["beta"]) == pytest.approx(0.2)
    assert describe(far, prepared, state)["kl/train"] == pytest.approx(kl)


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_what_is_not_finite_off_the_mask_is_in_no_reward(beta: float) -> None:
    logps = f64([-1, -math.inf, -2, -math.inf]).reshape(1, 1, 4)
    ref = f64([-1, -1, -math.inf, -math.inf]).reshape(1, 1, 4)
    mask = torch.tensor([[[True, False, False, False]]])
    assert token_rewards(f64([3]).reshape(1, 1), logps, ref, mask, mask, beta).tolist() == [[[3, 0, 0, 0]]]


def test_ema_is_updated_after_use() -> None:
    table = Table()
    algorithm = REINFORCE(baseline="ema", ema_decay=0.75, beta=0.3)
    none, _ = REINFORCE(baseline="none", beta=0.3).prepare(table.rollouts([[0], [3]]), {})
    returns = none.advantages_PGT[:, 0, 0]
    first, state = algorithm.prepare(table.rollouts([[0], [3]]), algorithm.init_state())
    torch.testing.assert_close(first.advantages_PGT, none.advantages_PGT)  # nothing known yet: b = 0
    second, _ = algorithm.prepare(table.rollouts([[0], [3]]), state)
    torch.testing.assert_close(second.advantages_PGT[:, 0, 0], returns - returns.mean(), atol=1e-6, rtol=1e-6)


def test_scaling_by_the_groups_deviation_is_off_unless_asked_for() -> None:
    table = Table()
    plain, _ = REINFORCE(beta=0.3).prepare(table.rollouts([[0, 5, 9]]), {})
    scaled, _ = REINFORCE(beta=0.3, scale_by_group_std=True).prepare(table.rollouts([[0, 5, 9]]), {})
    returns, _ = REINFORCE(beta=0.3, baseline="none").prepare(table.rollouts([[0, 5, 9]]), {})
    R = returns.advantages_PGT[0, :, 0]
    torch.testing.assert_close(plain.advantages_PGT[0, :, 0], 1.5 * (R - R.mean()))
    ratio = plain.advantages_PGT[0, :, 0] / scaled.advantages_PGT[0, :, 0]
    torch.testing.assert_close(ratio, (R.std() + 1e-4).expand(3))
