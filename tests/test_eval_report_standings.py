from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_world import World, with_ends, with_paths, world

from eval.report.inputs import JUDGE, KL
from eval.report.numbers.frames import Evaluations, evaluations
from eval.report.numbers.pairs import Pair
from eval.report.numbers.standings import Standing, equal_cost, matched_kl, own_end
from eval.stats import holm, paired_difference

NAN = math.nan


def pair_of(standing: Standing, *arms: str) -> Pair:
    (found,) = [pair for pair in standing.pairs if {pair.first, pair.second} == set(arms)]
    return found


def without(made: World, arm: str, seed: int) -> World:
    """The same, where this run has failed."""
    runs = made.runs.copy()
    runs.loc[(runs["arm"] == arm) & (runs["seed"] == seed), "status"] = "failed"
    return dataclasses.replace(made, runs=runs)


# Own end -----------------------------------------------------------------------------------------------


def test_pairs_are_paired_by_seed_and_corrected() -> None:
    scores = {"reinforce": [0.60, 0.70, 0.80], "ppo": [0.55, 0.66, 0.74], "dpo": [0.3, 0.5, 0.35]}
    standing = own_end(evaluations(with_ends(scores)))
    raw = [
        paired_difference(scores[a], scores[b]).p_value
        for a, b in (("reinforce", "ppo"), ("reinforce", "dpo"), ("ppo", "dpo"))
    ]
    assert [pair.p_holm for pair in standing.pairs] == pytest.approx(holm(raw))
    pair = pair_of(standing, "reinforce", "ppo")
    assert pair.first == "reinforce"
    assert pair.differences == pytest.approx([0.05, 0.04, 0.06])
    assert pair.difference.mean == pytest.approx(0.05)
    assert pair.improvement == pytest.approx(6 / 9)  # ppo wins .66 > .60, .74 > .60 and .74 > .70
    assert standing.ranking == ["reinforce", "ppo", "dpo"]


def test_a_failed_runs_partner_is_left_out_of_the_pairs() -> None:
    standing = own_end(evaluations(world(Path("x"), failed=[("ppo", 1)])))
    counts = {frozenset((pair.first, pair.second)): pair.difference.n for pair in standing.pairs}
    assert counts == {
        frozenset(("ppo", "reinforce")): 2,
        frozenset(("ppo", "dpo")): 2,
        frozenset(("reinforce", "dpo")): 3,
    }
    assert set(standing.values["ppo"]) == {0, 2}


def test_no_common_seed_is_no_known_pair() -> None:
    made = world(Path("x"), {"ppo": "ppo", "dpo": "dpo"}, 2, failed=[("ppo", 0), ("dpo", 1)])
    standing = own_end(evaluations(made))
    assert standing.known == ()
    assert math.isnan(standing.pairs[0].difference.mean)
    assert not standing.pairs[0].told_apart


# Equal total cost --------------------------------------------------------------------------------------

A = [(2.0, 0.0, 0.4), (6.0, 1.0, 0.6), (10.0, 2.0, 0.8)]
B = [(4.0, 0.0, 0.4), (5.0, 1.0, 0.7), (8.0, 2.0, 0.8)]


def test_equal_cost_is_the_largest_that_every_run_reached() -> None:
    standing = equal_cost(evaluations(with_paths({"a": [A], "b": [B]})))
    assert standing.cost == 8
    assert standing.values == {"a": {0: pytest.approx(0.7)}, "b": {0: pytest.approx(0.8)}}
    (pair,) = standing.pairs
    assert (pair.first, pair.second, pair.rough) == ("b", "a", ())
    assert pair.difference.mean == pytest.approx(0.1)
    assert standing.ranking == ["b", "a"]


def test_a_seed_that_stopped_early_sets_the_cost_for_all() -> None:
    short = [(4.0, 0.0, 0.4), (5.0, 1.0, 0.7), (7.0, 1.0, 0.9)]
    standing = equal_cost(evaluations(with_paths({"a": [A, A], "b": [B, short]})))
    assert standing.cost == 7
    assert standing.values["a"] == {0: pytest.approx(0.65), 1: pytest.approx(0.65)}
    assert standing.values["b"] == {0: pytest.approx(0.7 + 0.1 * 2 / 3), 1: pytest.approx(0.9)}


def test_a_failed_run_neither_sets_the_cost_nor_counts() -> None:
    short = [(4.0, 0.0, 0.4), (5.0, 1.0, 0.7)]
    made = without(with_paths({"a": [A, A], "b": [B, short]}), "b", 1)
    standing = equal_cost(evaluations(made))
    assert standing.cost == 8
    assert pair_of(standing, "a", "b").difference.n == 1


def test_an_arm_whose_preparation_costs_more_has_no_value() -> None:
    dear = [(9.0, 0.0, 0.4), (12.0, 1.0, 0.9)]
    standing = equal_cost(evaluations(with_paths({"a": [A], "b": [B], "dear": [dear]})))
    assert standing.cost == 8
    assert standing.unprepared == ("dear",)
    assert standing.values["dear"] == {}
    assert standing.ranking == ["b", "a"]
    assert [{pair.first, pair.second} for pair in standing.known] == [{"a", "b"}]


def test_a_reading_before_the_first_evaluation_is_rough_and_claims_nothing() -> None:
    late = [(3.0, 0.0, 0.4), (9.0, 1.0, 0.9)]  # only start and end were evaluated
    standing = equal_cost(evaluations(with_paths({"late": [late, late, late], "b": [B, B, B]})))
    pair = pair_of(standing, "late", "b")
    assert standing.values["late"][0] == pytest.approx(0.4 + 0.5 * 5 / 6)
    assert pair.rough == ("late",)
    assert not dataclasses.replace(pair, p_holm=0.001).told_apart
    assert dataclasses.replace(pair, p_holm=0.001, rough=()).told_apart
    assert standing.rough == ["late"]
    assert standing.ranking == ["b"]
    assert standing.firm == ()


def test_start_and_end_are_enough_where_the_end_is_read() -> None:
    two = [(3.0, 0.0, 0.4), (8.0, 1.0, 0.9)]
    standing = equal_cost(evaluations(with_paths({"two": [two], "b": [B]})))
    assert (standing.cost, standing.rough) == (8, [])
    assert standing.values["two"] == {0: 0.9}


def test_no_cost_along_the_way_is_no_comparison() -> None:
    made = with_paths({"a": [A], "b": [B]})
    at_the_end = (made.results["metric"] != "cost/total_flops") | (made.results["point"] == 2)
    standing = equal_cost(evaluations(dataclasses.replace(made, results=made.results[at_the_end])))
    assert standing.pairs == ()
    assert math.isnan(standing.cost)


# Matched KL --------------------------------------------------------------------------------------------


def at_kls(*path: tuple[float, float]) -> list[tuple[float, float, float]]:
    """A path of (KL, judge), whatever it costs."""
    return [(float(i), kl, judge) for i, (kl, judge) in enumerate(path)]


def test_every_pair_is_read_at_the_smallest_kl_at_which_a_run_of_theirs_ended() -> None:
    near = at_kls((0, 0.4), (1, 0.6), (4, 0.7))
    far = at_kls((0, 0.4), (2.25, 0.5), (12.25, 0.9))
    farther = at_kls((0, 0.4), (9, 0.8), (25, 1.0))
    standing = matched_kl(evaluations(with_paths({"near": [near], "far": [far], "farther": [farther]})))
    first = pair_of(standing, "near", "far")  # √KL 2: near 0.7, far, between 1.5 and 3.5, 0.5 + 0.4/4
    assert (first.kl, first.first) == (4, "near")
    assert first.difference.mean == pytest.approx(0.1)
    second = pair_of(standing, "far", "farther")  # √KL 3.5: far 0.9, farther, between 3 and 5, 0.8 + 0.2/4
    assert (second.kl, second.first) == (12.25, "far")
    assert second.difference.mean == pytest.approx(0.05)
    third = pair_of(standing, "near", "farther")  # farther was there before its first evaluation
    assert (third.kl, third.rough) == (4, ("farther",))
    assert standing.ranking == ["near", "far", "farther"]
    assert standing.values == {}


def test_one_seed_that_stayed_near_sets_the_kl_of_its_pair() -> None:
    far = at_kls((0, 0.4), (1, 0.6), (9, 0.9))
    near = at_kls((0, 0.4), (0.5, 0.5), (4, 0.7))
    standing = matched_kl(evaluations(with_paths({"a": [far, near], "b": [far, far]})))
    (pair,) = standing.pairs
    assert pair.kl == 4
    assert pair_values(pair, "a") == {0: pytest.approx(0.75), 1: pytest.approx(0.7)}
    assert pair_values(pair, "b") == {0: pytest.approx(0.75), 1: pytest.approx(0.75)}


def test_a_run_that_turned_back_is_read_where_it_ended() -> None:
    """Its largest KL, 9, all runs reached too, but there it was half trained."""
    back = at_kls((0, 0.4), (1, 0.5), (9, 0.6), (4, 0.8))
    on = at_kls((0, 0.4), (4, 0.7), (9, 0.9), (16, 1.0))
    (pair,) = matched_kl(evaluations(with_paths({"back": [back], "on": [on]}))).pairs
    assert (pair.kl, pair.first, pair.rough) == (4, "back", ())
    assert pair.difference.mean == pytest.approx(0.1)


def test_a_run_that_came_back_to_the_base_is_not_compared() -> None:
    back = at_kls((0, 0.4), (1, 0.5), (0.01, 0.4))
    moved = at_kls((0, 0.4), (1, 0.6), (4, 0.9))
    standing = matched_kl(evaluations(with_paths({"back": [back], "moved": [moved]})))
    assert (standing.pairs, standing.unmoved) == ((), ("back",))


@pytest.mark.parametrize(
    ("slow", "ahead", "rough"),
    [
        (0.50, None, ("fast",)),  # straight in √KL fast has 0.5 there, straight in KL 0.4375
        (0.47, None, ("fast",)),  # told apart either way, but not the same way round
        (0.70, "slow", ()),
        (0.30, "fast", ()),
    ],
)
def test_what_depends_on_how_a_path_bends_is_rough(
    slow: float, ahead: str | None, rough: tuple[str, ...]
) -> None:
    noises = (0.0, 0.001, -0.002, 0.004, -0.003)
    paths = {
        "slow": [at_kls((0, 0.0), (1, 0.2), (4, slow + noise)) for noise in noises],
        "fast": [at_kls((0, 0.0), (1, 0.25), (9, 0.75)) for _ in noises],
    }
    (pair,) = matched_kl(evaluations(with_paths(paths))).pairs
    assert (pair.ahead, pair.rough) == (ahead, rough)


def pair_values(pair: Pair, arm: str) -> dict[int, float]:
    return dict(pair.of_first if pair.first == arm else pair.of_second)


def test_an_arm_that_never_moved_is_not_compared() -> None:
    still = at_kls((0, 0.4), (0.001, 0.41), (0.01, 0.4))
    moved = at_kls((0, 0.4), (1, 0.6), (4, 0.9))
    standing = matched_kl(evaluations(with_paths({"still": [still], "a": [moved], "b": [moved]})))
    assert standing.unmoved == ("still",)
    assert [{pair.first, pair.second} for pair in standing.pairs] == [{"a", "b"}]
    assert standing.pairs[0].difference.mean == 0


def test_a_kl_that_is_not_a_number_is_bridged_and_a_run_without_any_left_out() -> None:
    whole = at_kls((0, 0.4), (1, 0.5), (2, 0.6), (4, 1.0))
    holed = at_kls((0, 0.4), (1, 0.5), (NAN, 0.0), (4, 0.8))
    blind = at_kls((0, 0.4), (NAN, 0.5), (NAN, 0.6), (math.inf, 1.0))
    standing = matched_kl(evaluations(with_paths({"a": [whole, whole], "b": [holed, blind]})))
    (pair,) = standing.pairs
    assert (pair.kl, pair.difference.n) == (4, 1)
    assert pair.difference.mean == pytest.approx(0.2)


def test_holm_counts_the_pairs_that_could_be_read() -> None:
    generator = np.random.default_rng(0)
    runs = {
        arm: [at_kls((0, 0.4), (1, 0.5), (3, level + 0.05 * float(generator.normal()))) for _ in range(4)]
        for arm, level in (("a", 0.9), ("b", 0.8), ("c", 0.5))
    }
    still = [at_kls((0, 0.4), (0.01, 0.4)) for _ in range(4)]
    standing = matched_kl(evaluations(with_paths({**runs, "still": still})))
    assert len(standing.pairs) == 3
    raw = [
        paired_difference(list(pair.of_first.values()), list(pair.of_second.values())).p_value
        for pair in standing.pairs
    ]
    assert [pair.p_holm for pair in standing.pairs] == pytest.approx(holm(raw))


def test_without_kl_there_is_no_comparison_at_matched_kl() -> None:
    made = world(Path("x"))
    results = made.results[made.results["metric"] != "kl/sequence"]
    assert matched_kl(evaluations(dataclasses.replace(made, results=results))) == Standing("kl")


def test_a_policy_without_a_path_is_in_the_first_comparison_only() -> None:
    made = with_paths({"a": [A], "b": [B], "elsewhere": [[(0.0, 2.0, 0.95)]]})
    results = made.results.copy()
    results.loc[results["arm"] == "elsewhere", "point"] = 5
    view = evaluations(dataclasses.replace(made, results=results))
    assert own_end(view).ranking[0] == "elsewhere"
    for standing in (equal_cost(view), matched_kl(view)):
        assert [{pair.first, pair.second} for pair in standing.known] == [{"a", "b"}]


# Claims where nothing differs --------------------------------------------------------------------------

Curve = Callable[[np.ndarray], np.ndarray]


def simulated(
    kls: Mapping[str, Curve],
    judge: Callable[[np.ndarray, np.ndarray], np.ndarray],
    points: int,
    rng: np.random.Generator,
    ahead: float = 0.0,
) -> Evaluations:
    """Five seeds an arm: arm → its KL at each share of training; KL × share → judge reward, the first arm's `ahead`
    more; seeds differ by 5% in KL and 0.01 in reward."""
    share_N = (np.arange(points + 1) / points) ** 2
    rows = []
    for place, (arm, kl_of) in enumerate(kls.items()):
        for seed in range(5):
            kl_N = kl_of(share_N) * math.exp(0.05 * rng.normal())
            judge_N = judge(kl_N, share_N) + 0.01 * rng.normal() + ahead * (place == 0)
            judge_N[0] = 0.0
            rows += [
                (arm, seed, point, True, *both) for point, both in enumerate(zip(kl_N, judge_N, strict=True))
            ]
    paths = pd.DataFrame(rows, columns=["arm", "seed", "point", "finished", KL, JUDGE])
    return Evaluations({arm: arm for arm in kls}, paths, paths[paths["point"] == points], {}, pd.DataFrame())


def overshoot(peak: float) -> Curve:
    """Out to about `peak` nats at a tenth of training, and back to 2.1."""

    def kl(share_N: np.ndarray) -> np.ndarray:
        settled_N = 2.1 * (1 - np.exp(-share_N / 0.03))
        return settled_N + (peak - 2.1) * math.e * (share_N / 0.1) * np.exp(-share_N / 0.1)

    return kl


def half_trained(kl_N: np.ndarray, share_N: np.ndarray) -> np.ndarray:
    """What KL buys grows with training."""
    return 0.24 * np.sqrt(kl_N) * (1 - 0.25 * np.exp(-share_N / 0.25))


def test_arms_that_overshoot_unlike_and_end_alike_are_not_told_apart() -> None:
    rng = np.random.default_rng(2)
    arms = {"far": overshoot(3.6), "near": overshoot(2.6)}
    found = [matched_kl(simulated(arms, half_trained, 8, rng)) for _ in range(60)]
    assert sum(len(standing.firm) for standing in found) > 50
    assert sum(pair.told_apart for standing in found for pair in standing.pairs) <= 8  # 99% of 5% of 60


SPEEDS: Mapping[str, Curve] = {
    "slow": lambda share_N: 1.2 * np.sqrt(share_N),
    "fast": lambda share_N: 12 * share_N,
}


def test_arms_of_unlike_speed_on_one_concave_curve_are_not_told_apart() -> None:
    rng = np.random.default_rng(2)
    found = [matched_kl(simulated(SPEEDS, lambda kl_N, _: 0.25 * np.sqrt(kl_N), 5, rng)) for _ in range(60)]
    assert sum(pair.told_apart for standing in found for pair in standing.pairs) <= 8


def test_arms_of_unlike_speed_that_differ_are_told_apart() -> None:
    rng = np.random.default_rng(2)
    found = [
        matched_kl(simulated(SPEEDS, lambda kl_N, _: 0.25 * np.sqrt(kl_N), 5, rng, ahead=0.05))
        for _ in range(20)
    ]
    assert sum(pair.ahead == "slow" for standing in found for pair in standing.pairs) > 15
