"""What the verdict says of the frontier: shares of the possible gain, and what the best of N gets without training."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from eval.frontier.estimate import Curve
from eval.report.inputs import JUDGE, PROXY
from eval.report.numbers.reachable import ArmPoint, Reachable
from eval.report.sections import reached
from eval.stats import Estimate

NOTHING = np.empty(0)
ARMS = {
    PROXY: {"reinforce": (1.0, 0.97), "ppo": (0.9, 0.96), "dpo": (0.7, 0.82)},
    JUDGE: {"reinforce": (0.79, 0.7), "ppo": (0.76, 0.65), "dpo": (0.67, 0.49)},
}
"""Metric → arm → reward, and share of the gain over 0 (proxy) or 0.45 (judge) that is possible."""
BASE = {PROXY: 0.0, JUDGE: 0.45}


def estimate(mean: float, half: float, n: int = 64) -> Estimate:
    return Estimate(mean, mean - half, mean + half, n)


def reachable_of(metric: str, best_of: dict[int, float] | None = None, half: float = 0.02) -> Reachable:
    """The frontier's numbers for `ARMS`; `best_of`: N → reward, its differences from the arms' known to ± `half`."""
    best_of, base = best_of or {}, BASE[metric]
    unknown = estimate(math.nan, math.nan)
    arms = {
        arm: ArmPoint(0, 2.0, reward, estimate((reward - base) * (1 / share - 1), 0.01), True, False, math.nan, unknown)
        for arm, (reward, share) in ARMS[metric].items()
    }  # fmt: skip
    over = {n: {arm: estimate(v - p.reward, half) for arm, p in arms.items()} for n, v in best_of.items()}
    curve: Any = Curve  # its numbers are not asked for
    points = {n: (math.log(n), value) for n, value in best_of.items()}
    return Reachable(metric, curve, base, (NOTHING, NOTHING, NOTHING), points, arms, over)


def both(best_of: dict[int, float] | None = None, half: float = 0.02) -> dict[str, Reachable]:
    return {PROXY: reachable_of(PROXY), JUDGE: reachable_of(JUDGE, best_of, half)}


def changed(best: Reachable, arm: str, **changes: Any) -> Reachable:
    return dataclasses.replace(best, arms={**best.arms, arm: dataclasses.replace(best.arms[arm], **changes)})


def test_every_arms_share_is_given_of_proxy_and_of_judge_and_none_is_ranked() -> None:
    """The judge is the primary metric; one seed's policy on a few prompts ranks nobody."""
    assert reached.sentences(both()) == [
        "At its own KL the policy of seed 0 of each arm has this share of the gain that is possible, in proxy reward and in "
        "judge reward: reinforce 97% and 70%, ppo 96% and 65%, dpo 82% and 49%. One seed on 64 prompts: this does not rank "
        "the arms."
    ]
    assert reached.sentences({}) == []


def test_one_share_is_given_where_there_is_one_frontier_or_one_reward() -> None:
    alone = "that is possible, in judge reward: reinforce 70%, ppo 65%, dpo 49%. One seed"
    assert alone in reached.shares({JUDGE: reachable_of(JUDGE)})
    same = dataclasses.replace(reachable_of(JUDGE), metric=PROXY)
    assert alone in reached.shares({PROXY: same, JUDGE: reachable_of(JUDGE)})


def test_a_loss_a_bound_and_an_arm_that_stayed_at_the_base() -> None:
    best = {metric: changed(found, "ppo", kl=0.01) for metric, found in both().items()}
    best[JUDGE] = changed(best[JUDGE], "dpo", reward=0.44)
    best[PROXY] = changed(best[PROXY], "dpo", inside=False)
    assert ": reinforce 97% and 70%, dpo at least 82% and none. One seed" in reached.shares(best)
    near = {
        metric: dataclasses.replace(found, arms={"ppo": found.arms["ppo"]}) for metric, found in best.items()
    }
    assert reached.shares(near) == ""


def test_one_arm_is_not_spoken_of_as_each_and_one_prompt_is_one() -> None:
    alone = {
        metric: dataclasses.replace(found, arms={"ppo": found.arms["ppo"]})
        for metric, found in both().items()
    }
    alone[PROXY] = changed(alone[PROXY], "ppo", left=estimate(0.0375, 0.01, 1))
    assert reached.shares(alone) == (
        "At its own KL the policy of seed 0 of ppo has this share of the gain that is possible, in proxy reward and in judge "
        "reward: 96% and 65%. One seed on 1 prompt: others would give another share."
    )


def test_arms_of_different_seeds_are_told_whose_is_which() -> None:
    best = {metric: changed(found, "dpo", seed=2) for metric, found in both().items()}
    seeds = "reinforce seed 0, ppo seed 0 and dpo seed 2"
    assert reached.shares(best).startswith(f"At its own KL one policy of each arm ({seeds}) has this share")


def test_the_smallest_n_that_reaches_the_best_arm_is_said() -> None:
    assert reached.best_of_n(both({4: 0.7, 8: 0.8, 16: 0.82})) == (
        "Without training, the best of 8 responses of the base, chosen by the proxy, has judge reward 0.800, at 8 times the "
        "sampling: not told apart from reinforce (0.790), more than ppo (0.760) and dpo (0.670), each by its policy of seed 0."
    )


def test_where_no_n_reaches_it_the_highest_is_said() -> None:
    """The proxy chooses: with more responses it finds what the judge likes less."""
    assert reached.best_of_n(both({16: 0.759, 32: 0.763, 64: 0.752})) == (
        "Without training, the best of N responses of the base, chosen by the proxy, has at most judge reward 0.763 (N = 32, "
        "of up to 64), at 32 times the sampling: less than reinforce (0.790), not told apart from ppo (0.760), more than dpo "
        "(0.670), each by its policy of seed 0."
    )


def test_a_proxy_that_chooses_worse_than_nothing() -> None:
    assert reached.best_of_n(both({2: 0.44, 4: 0.3})) == (
        "Without training, the best of N responses of the base, chosen by the proxy, has no more judge reward than the base "
        "itself (0.450), for any N up to 4."
    )


def test_a_judge_that_is_the_training_reward_chooses_itself() -> None:
    same = {
        metric: dataclasses.replace(reachable_of(JUDGE, {4: 0.8}), metric=metric) for metric in (PROXY, JUDGE)
    }
    assert ", chosen by the judge itself, has judge reward 0.800" in reached.best_of_n(same)


@pytest.mark.parametrize("best", [{}, both(), {JUDGE: reachable_of(JUDGE)}])
def test_nothing_is_said_of_choosing_where_the_proxy_cannot_choose(best: dict[str, Reachable]) -> None:
    assert reached.best_of_n(best) == ""


def test_an_interval_that_is_not_known_tells_nothing_apart() -> None:
    (most,) = {reached.best_of_n(both({4: 0.8}, math.nan))}
    assert "not told apart from reinforce (0.790), ppo (0.760) and dpo (0.670), each by" in most
