"""Caveats on seeds: outlying, identical and few ones, and arms that did the same in every seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from report_cases import told_by, with_facts
from report_world import ARMS, POINTS, World, with_ends, world

from eval.report.caveats import seeds as caveats
from eval.report.inputs import PROXY
from eval.report.numbers.frames import evaluations

NEAR = [0.70, 0.71, 0.69, 0.705, 0.695]
APART = [*NEAR[:4], 0.2]
COLLAPSED = [0.805, 0.790, 0.791, 0.807, 0.233]
PROXIES = [1.367, 1.360, 1.359, 1.358, 1.430]


def with_proxies(made: World, proxies: Mapping[str, Sequence[float]]) -> World:
    """Proxy rewards at the end: arm → one a seed."""
    results = made.results.copy()
    for arm, values in proxies.items():
        for seed, value in enumerate(values):
            rows = (results["metric"] == PROXY) & (results["arm"] == arm) & (results["seed"] == seed)
            results.loc[rows & (results["point"] == POINTS), "value"] = value
    return dataclasses.replace(made, results=results)


def apart(ends: Sequence[float], proxies: Sequence[float], base: float = 0.455) -> str:
    """What is said of one arm, reinforce, that ended so."""
    made = with_proxies(with_ends({"reinforce": ends}, base), {"reinforce": proxies})
    return told_by(caveats.outlying, made)


# Outlying seeds ----------------------------------------------------------------------------------------


def test_a_seed_that_exploits_the_proxy() -> None:
    assert apart(COLLAPSED, PROXIES) == (
        "reinforce seed 4 ended at judge reward 0.233, the others at 0.790 to 0.807, and below the base (0.455), although its "
        "proxy reward (1.430) is the highest of its arm: it exploits the proxy. The mean of reinforce describes neither kind "
        "of run; look at every seed."
    )


def test_a_seed_a_little_apart_is_told_as_that() -> None:
    assert apart([0.774, 0.778, 0.779, 0.777, 0.758], PROXIES) == (
        "reinforce seed 4 (0.758) lies apart from the others (0.774 to 0.779)."
    )
    assert apart(NEAR, PROXIES) == ""


def test_of_three_seeds_two_near_each_other_are_no_measure() -> None:
    """The one is 50 times as far from them as they are from each other, and yet of the same kind."""
    assert apart([0.8001, 0.8007, 0.770], PROXIES[:3]) == (
        "reinforce seed 2 (0.770) lies apart from the others (0.800 to 0.801)."
    )


@pytest.mark.parametrize(
    ("proxy", "clause"),
    [
        (
            1.362,
            "although its proxy reward (1.362) is no lower than the others' mean (1.361): it exploits the proxy.",
        ),
        (1.360, "the others at 0.790 to 0.807, and below the base (0.455). The mean"),
    ],
)
def test_a_proxy_that_fell_too_was_not_exploited(proxy: float, clause: str) -> None:
    assert clause in apart(COLLAPSED, [*PROXIES[:4], proxy])


def test_nothing_is_said_of_the_base_that_is_not_so() -> None:
    above = apart(COLLAPSED, PROXIES, base=0.1)
    assert above.startswith(
        "reinforce seed 4 ended at judge reward 0.233, the others at 0.790 to 0.807, although its proxy reward"
    )
    all_below = apart(COLLAPSED, PROXIES, base=0.9)
    assert "base" not in all_below


def test_a_seed_far_above_the_others_exploits_nothing() -> None:
    text = apart([0.505, 0.5, 0.51, 0.507, 0.9], PROXIES)
    assert text == (
        "reinforce seed 4 ended at judge reward 0.900, the others at 0.500 to 0.510. The mean of reinforce describes neither "
        "kind of run; look at every seed."
    )


def test_no_proxy_is_exploited_that_is_the_judge_or_each_seeds_own() -> None:
    made = with_proxies(with_ends({"reinforce": COLLAPSED}, 0.455), {"reinforce": PROXIES})
    own = {str(seed): {"reward_model": {"accuracy": 0.8}} for seed in range(5)}
    unscored = dataclasses.replace(made, results=made.results[made.results["metric"] != PROXY])
    for other in (with_facts(made, judge_is_reward=True), with_facts(made, data_seeds=own), unscored):
        assert "exploits" in told_by(caveats.outlying, made)
        assert "(0.455). The mean of reinforce" in told_by(caveats.outlying, other)


def test_several_seeds_of_one_arm_are_told_together() -> None:
    ends = [0.80, 0.79, 0.81, 0.80, 0.795, 0.805, 0.30, 0.25]
    assert apart(ends, [1.3] * 6 + [1.5, 1.4]).startswith(
        "reinforce seeds 6 and 7 ended at judge reward 0.250 to 0.300, the others at 0.790 to 0.810, and below the base "
        "(0.455), although their proxy rewards (1.400 to 1.500) are the highest of their arm: they exploit the proxy. The mean"
    )
    ends[6] = 0.46
    assert apart(ends, [1.3] * 6 + [0.5, 1.4]).startswith(
        "reinforce seeds 6 and 7 ended at judge reward 0.250 to 0.460, the others at 0.790 to 0.810, seed 7 below the base "
        "(0.455), seed 7 although its proxy reward (1.400) is the highest of its arm: it exploits the proxy."
    )


def test_only_what_fell_far_exploits() -> None:
    """Seed 7 is a little below the others."""
    text = apart(
        [0.80, 0.799, 0.801, 0.80, 0.7995, 0.8005, 0.30, 0.76], [1.3, 1.2, 1.3, 1.2, 1.3, 1.2, 1.5, 1.4]
    )
    assert "seeds 6 and 7 ended at judge reward 0.300 to 0.760" in text
    assert "seed 6 although its proxy reward (1.500) is the highest of its arm: it exploits" in text


def test_below_and_above_are_told_apart() -> None:
    ends = [0.80, 0.799, 0.801, 0.80, 0.7995, 0.8005, 0.30, 0.99]
    said = caveats.outlying(made := with_ends({"ppo": ends}), evaluations(made))
    assert [text.partition(",")[0] for text in said] == [
        "ppo seed 6 ended at judge reward 0.300",
        "ppo seed 7 ended at judge reward 0.990",
    ]


def test_the_farthest_comes_first_and_of_many_arms_the_rest_is_named() -> None:
    def said(arms: int) -> list[str]:
        made = with_ends({f"arm{i}": [*NEAR[:4], 0.5 - 0.05 * i] for i in range(arms)} | {"steady": NEAR})
        return caveats.outlying(made, evaluations(made))

    assert [text.split()[0] for text in said(4)] == ["arm3", "arm2", "arm1", "arm0"]
    assert [text.split()[0] for text in said(6)] == ["arm5", "arm4", "arm3", "Seeds"]
    assert said(6)[-1] == "Seeds of arm2, arm1 and arm0 lie apart from the others of their arm, too."


def test_without_a_base_no_seed_is_called_another_outcome() -> None:
    made = with_ends({"ppo": APART})
    trained = (made.results["arm"] != "base") & (made.results["point"] > 0)
    without = dataclasses.replace(made, results=made.results[trained])
    assert (
        told_by(caveats.outlying, without)
        == "ppo seed 4 (0.200) lies apart from the others (0.690 to 0.710)."
    )


def test_seeds_without_a_number_are_no_others() -> None:
    assert "the others (0.690 to 0.710)" in apart([*NEAR[:4], 0.6, math.nan, math.inf], [1.0] * 7)


# Identical and few seeds -------------------------------------------------------------------------------


def test_identical_seeds() -> None:
    text = told_by(caveats.identical, with_ends({"reinforce": [0.7, 0.7, 0.7], "ppo": [0.6, 0.62, 0.61]}))
    assert "All seeds of reinforce gave the same judge reward" in text
    assert "ppo" not in text
    assert "A bounded score may have reached its end" in text
    assert told_by(caveats.identical, with_ends({"reinforce": [0.7], "ppo": [0.7]})) == ""


def alike(made: World, *arms: str, but: tuple[int, str] | None = None) -> World:
    """`arms` end in every seed as the first of them, to the last bit; one seed and metric excepted."""
    results = made.results.copy()
    keyed = results.set_index(["arm", "seed", "point", "metric"])["value"]
    for place, row in results[results["arm"].isin(arms[1:])].iterrows():
        if (row["seed"], row["metric"]) != but and not row["metric"].startswith("win_rate/"):
            results.loc[place, "value"] = keyed[(arms[0], row["seed"], row["point"], row["metric"])]
    return dataclasses.replace(made, results=results)


def test_arms_that_did_the_same_in_every_seed() -> None:
    made = world(Path("x"))
    told = told_by(caveats.same_arms, alike(made, "ppo", "dpo"))
    assert told == (
        "ppo and dpo did the same in every seed: what differs in their settings had no effect in these runs."
    )
    assert told_by(caveats.same_arms, alike(made, *ARMS)).startswith("reinforce, ppo and dpo did the same")
    assert told_by(caveats.same_arms, made) == ""
    for metric in ("reward/judge", "kl/sequence"):
        assert told_by(caveats.same_arms, alike(made, "ppo", "dpo", but=(1, metric))) == ""
    assert told_by(caveats.same_arms, alike(world(Path("x"), seeds=1), "ppo", "dpo")) == "", (
        "one seed is no evidence"
    )
    runs = made.runs.copy()
    runs.loc[(runs["arm"] == "dpo") & (runs["seed"] == 1), "status"] = "failed"
    one_failed = dataclasses.replace(alike(made, "ppo", "dpo"), runs=runs)
    assert "ppo and dpo did the same" in told_by(caveats.same_arms, one_failed)


@pytest.mark.parametrize(("seeds", "words"), [(1, ""), (2, "With 2 seeds"), (4, "With 4 seeds"), (5, "")])
def test_few_seeds(seeds: int, words: str) -> None:
    text = told_by(caveats.few_seeds, world(Path("x"), seeds=seeds))
    assert words in text
    assert bool(words) == bool(text)


def test_the_middle_half_may_name_another_leader() -> None:
    steady = [0.60, 0.60, 0.62, 0.62, 0.62, 0.62, 0.64, 0.64]
    lucky = [0.55] * 6 + [0.99] * 2
    text = told_by(caveats.middle_half, with_ends({"lucky": lucky, "steady": steady}))
    assert "steady leads at the end of training with 0.620, before lucky with 0.550" in text
    assert told_by(caveats.middle_half, with_ends({"lucky": [0.9] * 7 + [0.8], "steady": steady})) == ""
    assert (
        told_by(caveats.middle_half, with_ends({"lucky": lucky[1:], "steady": steady[1:]})) == ""
    )  # seven seeds
