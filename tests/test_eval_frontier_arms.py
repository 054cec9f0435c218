"""Arms against the frontier: policies known exactly, none of which can lie above it."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from frontier_world import FrontierWorld

from eval.frontier.arms import above, arm_point, objective, regret
from eval.frontier.estimate import Curve, beta_grid, tilted

COUNT = 512


@functools.cache
def world(seed: int) -> FrontierWorld:
    return FrontierWorld.random(seed)


def objective_beta(seed: int) -> float:
    return 0.4 * world(seed).spread


Sampled = tuple[Curve, list[tuple[np.ndarray, np.ndarray]], list[np.ndarray]]


@functools.cache
def sampled(seed: int, draw: int = 0, count: int = COUNT) -> Sampled:
    """The frontier, the points of six policies, and those policies: the base, two optima, three that are not."""
    optima = [world(seed).optimum(beta * world(seed).spread)[0] for beta in (0.4, 0.2)]
    policies = [world(seed).ref_PS, *optima, *world(seed).arms(seed)]
    logps_KPM, counts, rewards_PM = world(seed).sampled(policies, count, draw)
    curve = tilted(
        logps_KPM, counts, rewards_PM, beta_grid(rewards_PM[:, :count], include=[objective_beta(seed)])
    )
    points = [arm_point(logps_KPM, counts, rewards_PM, k) for k in range(len(policies))]
    return curve, points, policies


def exact_regret(seed: int, logps_PS: np.ndarray) -> float:
    """β·KL(π‖π*_β), straight from its definition."""
    beta = objective_beta(seed)
    best_PS, _ = world(seed).optimum(beta)
    return float(beta * (np.exp(logps_PS) * (logps_PS - best_PS)).sum(-1).mean())


def test_an_arms_point_is_of_its_own_responses() -> None:
    logps_KPM = np.array([[[-1.0, -2.0, -3.0]], [[-4.0, -1.5, -1.0]]])
    kl_P, reward_P = arm_point(logps_KPM, (1, 2), np.array([[7.0, 1.0, 2.0]]), 1)
    assert (kl_P.tolist(), reward_P.tolist()) == ([(0.5 + 2.0) / 2], [1.5])
    base_kl_P, base_reward_P = arm_point(logps_KPM, (1, 2), np.array([[7.0, 1.0, 2.0]]), 0)
    assert (base_kl_P.tolist(), base_reward_P.tolist()) == ([0.0], [7.0])


@pytest.mark.parametrize("seed", range(3))
def test_points_are_those_of_the_policies(seed: int) -> None:
    _, points, policies = sampled(seed)
    for (kl_P, reward_P), logps_PS in zip(points, policies, strict=True):
        assert kl_P.mean() == pytest.approx(world(seed).kl(logps_PS).mean(), rel=0.03, abs=1e-12)
        assert reward_P.mean() == pytest.approx(
            world(seed).mean(logps_PS).mean(), abs=0.05 * world(seed).spread
        )


def test_a_kl_that_was_estimated_below_0_is_none() -> None:
    """An arm that is the reference lies on the frontier, though its samples say −0.05 nats."""
    seed = 0
    curve, points, _ = sampled(seed)
    base_kl_P, base_reward_P = points[0]
    at_0 = above(curve, base_kl_P, base_reward_P)
    below_0 = above(curve, base_kl_P - 0.05, base_reward_P)
    assert abs(at_0.mean) < 0.05 * world(seed).spread
    assert (below_0.mean, below_0.half_width) == pytest.approx((at_0.mean, at_0.half_width))


def test_the_objective_by_hand() -> None:
    np.testing.assert_allclose(objective(np.array([2.0, 4.0]), np.array([1.0, 3.0]), 0.5), [0.0, 1.0])


@pytest.mark.parametrize("seed", range(3))
def test_regret_is_beta_times_the_kl_to_the_best_policy(seed: int) -> None:
    """Of the optimum it is 0, and of the base β·E log Z − E[r]."""
    curve, points, policies = sampled(seed)
    beta = objective_beta(seed)
    found = [regret(curve, *point, beta) for point in points]
    assert found[1].mean == pytest.approx(0, abs=1e-4 * beta)
    _, log_z_P = world(seed).optimum(beta)
    base = beta * log_z_P.mean() - world(seed).mean(policies[0]).mean()
    assert found[0].mean == pytest.approx(base, rel=0.05)
    for estimate, logps_PS in zip(found, policies, strict=True):
        assert estimate.mean == pytest.approx(exact_regret(seed, logps_PS), rel=0.1, abs=1e-4)
        assert estimate.n == 16
    for estimate, logps_PS in zip(found[2:], policies[2:], strict=True):
        assert estimate.low <= exact_regret(seed, logps_PS) <= estimate.high


def test_no_regret_where_the_best_policy_is_out_of_reach() -> None:
    curve, points, _ = sampled(0, count=32)
    assert curve.reach_B[-1] == "none"
    assert math.isnan(regret(curve, *points[1], float(curve.betas_B[-1])).mean)
    with pytest.raises(ValueError, match="include it in beta_grid"):
        regret(curve, *points[1], 0.123)


def test_no_exact_policy_lies_significantly_above() -> None:
    """2.5% of the intervals may lie above 0 by chance where an arm is on the frontier; below it none does."""
    draws = [
        above(*_pair(sampled(seed, draw), k)) for seed in range(3) for draw in range(4) for k in range(1, 6)
    ]
    assert sum(estimate.low > 0 for estimate in draws) <= 2  # of 60, 24 of them on the frontier
    assert all(estimate.mean < 1e-3 for estimate in draws)


def _pair(world_sample: Sampled, k: int) -> tuple[Curve, np.ndarray, np.ndarray]:
    curve, points, _ = world_sample
    return curve, *points[k]


@pytest.mark.parametrize("seed", range(2))
def test_a_wrong_reward_or_kl_shows(seed: int) -> None:
    """The best policy's reward 5% of its gain too high, or its KL a tenth too low."""
    curve, points, _ = sampled(seed)
    kl_P, reward_P = points[1]
    gain = reward_P.mean() - points[0][1].mean()
    assert above(curve, kl_P, reward_P + 0.05 * gain).low > 0
    assert above(curve, 0.9 * kl_P, reward_P).low > 0


def test_a_wrong_reward_shows_beyond_the_solid_part_too() -> None:
    """The last tangent bounds what any policy could have there, and so the frontier."""
    curve, points, _ = sampled(0)
    last = np.flatnonzero(curve.reach_B == "solid")[-1]
    kl_P = curve.kl_BP[last] + 2.0
    bound_P = curve.reward_BP[last] + 2.0 * curve.betas_B[last]
    assert above(curve, kl_P, bound_P + 0.01).mean == pytest.approx(0.01)
    assert above(curve, kl_P, bound_P - 0.01).mean == pytest.approx(-0.01)
    assert bound_P.mean() > points[0][1].mean() + float(world(0).gain_at(float(kl_P.mean())))


@pytest.mark.parametrize("seed", range(2))
def test_on_the_solid_part_it_is_the_distance_to_the_curve(seed: int) -> None:
    curve, points, _ = sampled(seed)
    for kl_P, reward_P in points[1:]:
        distance = reward_P.mean() - float(curve.reward_at(kl_P.mean(), solid=True))
        gain = float(curve.reward_at(kl_P.mean())) - float(curve.reward_at(0.0))
        assert above(curve, kl_P, reward_P).mean == pytest.approx(distance, abs=0.002 * gain)


def test_unknown_where_nothing_is_solid() -> None:
    curve, points, _ = sampled(0, count=8)
    assert math.isnan(above(curve, *points[1]).mean)


def test_a_policy_that_gives_what_the_reference_cannot_is_infinitely_far() -> None:
    logps_KPM = np.log(np.full((2, 2, 120), 0.5))
    logps_KPM[0, :, -1] = -np.inf
    rewards_PM = np.random.default_rng(0).normal(size=(2, 120))
    curve = tilted(logps_KPM, (60, 60), rewards_PM, beta_grid(rewards_PM, include=[2.0]))
    point = arm_point(logps_KPM, (60, 60), rewards_PM, 1)
    assert math.isinf(point[0].mean())
    assert regret(curve, *point, 2.0).mean == math.inf
    assert above(curve, *point).mean == -math.inf
