"""Best-of-N against every subset, and against the exact distribution of the best."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from frontier_world import FrontierWorld

from eval.frontier.best_of_n import best_of_n, best_of_n_kl


def best_of_subsets(chosen_M: np.ndarray, valued_M: np.ndarray, n: int) -> float:
    """Every subset of n drawn, the best of each kept; among equals the mean."""
    kept = []
    for subset in itertools.combinations(range(len(chosen_M)), n):
        chosen, valued = chosen_M[list(subset)], valued_M[list(subset)]
        kept.append(valued[chosen == chosen.max()].mean())
    return float(np.mean(kept))


@pytest.mark.parametrize("levels", [2, 3, 1000])
def test_the_best_of_n_is_the_mean_over_all_subsets(levels: int) -> None:
    """With few levels most rewards are equal, with many none are."""
    random = np.random.default_rng(levels)
    chosen_PM, valued_PM = random.integers(levels, size=(2, 8)).astype(float), random.normal(size=(2, 8))
    ns = (1, 2, 3, 5, 8)
    expected_NP = [[best_of_subsets(*row, n) for row in zip(chosen_PM, valued_PM, strict=True)] for n in ns]
    np.testing.assert_allclose(best_of_n(chosen_PM, valued_PM, ns), expected_NP)


def test_one_is_the_mean_and_all_are_the_best() -> None:
    rewards_PM = np.random.default_rng(0).normal(size=(3, 200))
    one_P, all_P = best_of_n(rewards_PM, rewards_PM, (1, 200))
    np.testing.assert_allclose(one_P, rewards_PM.mean(-1))
    np.testing.assert_allclose(all_P, rewards_PM.max(-1))


def test_thousands_of_responses_are_no_trouble() -> None:
    """C(13000, 64) has 173 digits more than a float holds. Of uniform rewards the best of n expects n/(n+1)."""
    rewards_PM = (np.arange(13000)[None] + 1) / 13001
    np.testing.assert_allclose(best_of_n(rewards_PM, np.ones((1, 13000)), (64, 6500)), 1)
    np.testing.assert_allclose(best_of_n(rewards_PM, rewards_PM, (64, 6500))[:, 0], [64 / 65, 6500 / 6501])


def best_logps(world: FrontierWorld, n: int) -> np.ndarray:
    """The exact best-of-n policy of a world in which no rewards are equal: P(y) = F(y)ⁿ − F(before y)ⁿ."""
    order_PS = world.rewards_PS.argsort(-1)
    p_PS = np.take_along_axis(np.exp(world.ref_PS), order_PS, -1)
    share_PS = np.minimum(p_PS.cumsum(-1), 1.0)
    best_PS = share_PS**n - np.maximum(share_PS - p_PS, 0.0) ** n
    logps_PS = np.empty_like(best_PS)
    np.put_along_axis(logps_PS, order_PS, np.log(np.maximum(best_PS, 1e-300)), -1)
    return logps_PS


def test_estimates_and_bound_hold_where_everything_is_known() -> None:
    """The KL bound is nearly met: no response of this world is likely."""
    world, ns = FrontierWorld.random(0), (2, 4, 16, 64)
    _, _, rewards_PM = world.sampled([world.ref_PS], 4096, 0)
    value_NP = best_of_n(rewards_PM, rewards_PM, ns)
    for n, bound, value_P in zip(ns, best_of_n_kl(ns), value_NP, strict=True):
        logps_PS = best_logps(world, n)
        assert 0.8 * bound < world.kl(logps_PS).mean() < bound
        assert value_P.mean() == pytest.approx(world.mean(logps_PS).mean(), abs=0.02 * world.spread)


def test_the_best_of_n_lies_below_the_frontier_and_near_it() -> None:
    world, ns = FrontierWorld.random(1), (2, 8, 64)
    base = world.mean(world.ref_PS).mean()
    for n in ns:
        logps_PS = best_logps(world, n)
        possible = float(world.gain_at(float(world.kl(logps_PS).mean())))
        assert 0.9 * possible < world.mean(logps_PS).mean() - base < possible


def test_the_bound_by_hand() -> None:
    np.testing.assert_allclose(best_of_n_kl((1, 2, 64)), [0, math.log(2) - 0.5, math.log(64) - 63 / 64])


@pytest.mark.parametrize("ns", [(0, 2), (2, 9)])
def test_more_than_there_are_is_refused(ns: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="N from 1 to the 8 responses"):
        best_of_n(np.zeros((1, 8)), np.zeros((1, 8)), ns)
