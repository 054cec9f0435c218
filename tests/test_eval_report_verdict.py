from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_world import ARMS, POINTS, World, with_ends, with_paths, world

from eval import stats
from eval.report import claims, verdict, versus
from eval.report.document import Table, Text
from eval.report.frames import evaluations
from eval.report.standings import standings

CLEAR = {"reinforce": [0.90, 0.91, 0.92, 0.90, 0.91], "ppo": [0.60, 0.62, 0.61, 0.61, 0.6]}
UNCLEAR = {"reinforce": [0.9, 0.4, 0.6], "ppo": [0.6, 0.7, 0.5]}
OWN = {"beta_is_objective": False, "labels": "were written by people"}


def said(made: World) -> str:
    return " ".join(verdict.sentences(made))


def with_facts(made: World, **facts: Any) -> World:
    return dataclasses.replace(made, facts={**made.facts, **facts})


def with_betas(made: World, *betas: float) -> World:
    """The arms, in their order, with these β."""
    arms = {
        arm: about | {"settings": about["settings"] | {"beta": beta}}
        for (arm, about), beta in zip(made.facts["arms"].items(), betas, strict=True)
    }
    return with_facts(made, arms=arms)


def answered(
    gain: float, seeds: int = 5, prompts: int = 64, noise: float = 0.2, draw: int = 0, arm: str = "ppo"
) -> World:
    """Arm and base differ by `gain`, and each evaluation of a prompt by `noise` besides."""
    generator = np.random.default_rng(draw)
    base_P = 0.5 + noise * generator.normal(size=prompts)
    judged_NP = 0.5 + gain + noise * generator.normal(size=(seeds, prompts))
    runs = [("base", 0, base_P), *((arm, seed, judged_P) for seed, judged_P in enumerate(judged_NP))]
    rows = [
        {"arm": who, "seed": seed, "prompt_id": i, "length": 10, "judge": judged}
        for who, seed, judged_P in runs
        for i, judged in enumerate(judged_P)
    ]
    made = with_ends({arm: list(judged_NP.mean(axis=1))}, base=float(base_P.mean()))
    return dataclasses.replace(made, samples=pd.DataFrame(rows))


def twelve(seeds: int) -> World:
    generator = np.random.default_rng(0)
    names = [f"{arm}-b{beta}" for beta in (0.02, 0.05, 0.1, 0.3) for arm in ARMS]
    scores = {
        name: list(0.5 + 0.02 * i + 0.03 * generator.normal(size=seeds)) for i, name in enumerate(names)
    }
    return with_ends(scores)


WORLDS: dict[str, Callable[[], World]] = {
    "one arm, one seed": lambda: world(Path("reports/x"), {"ppo": "ppo"}, 1),
    "one arm": lambda: with_ends({"ppo": [0.52, 0.47, 0.55]}),
    "two arms, one seed": lambda: with_ends({"ppo": [0.5], "dpo": [0.7]}),
    "two arms, two seeds": lambda: with_ends({"ppo": [0.52, 0.6], "dpo": [0.7, 0.71]}),
    "three arms": lambda: world(Path("reports/x")),
    "three arms, β apart": lambda: with_facts(world(Path("reports/x")), **OWN),
    "three arms, ten seeds": lambda: world(Path("reports/x"), seeds=10),
    "twelve arms": lambda: twelve(3),
    "twelve arms, ten seeds": lambda: twelve(10),
    "twelve arms, one seed": lambda: twelve(1),
    "three arms, each its own β": lambda: with_betas(world(Path("reports/x")), 0.01, 0.1, 1.0),
    "three arms, β apart and each its own": lambda: with_betas(
        with_facts(world(Path("reports/x")), **OWN), 0.01, 1.0, 0.1
    ),
    "twelve arms, a sweep of β": lambda: with_betas(twelve(3), *(0.02 * i for i in range(1, 13))),
    "twelve arms, a sweep of β, one seed": lambda: with_betas(twelve(1), *(0.02 * i for i in range(1, 13))),
    "all at the end of the scale": lambda: with_ends({arm: [1.0] * 5 for arm in ARMS}),
    "some failed": lambda: world(Path("x"), failed=[("ppo", 1), ("dpo", 0), ("dpo", 2)]),
    "no common seed": lambda: world(Path("x"), {"ppo": "ppo", "dpo": "dpo"}, 2, failed=[("ppo", 1), ("dpo", 0)]),
    "all failed": lambda: world(Path("x"), seeds=1, failed=[(arm, 0) for arm in ARMS]),
    "one arm, judged by prompt": lambda: answered(0.2),
    "one arm, lost in the prompts": lambda: answered(0.0, seeds=10),
    "twelve arms, one judged by prompt": lambda: dataclasses.replace(
        twelve(3), samples=answered(0.2, 3, arm="ppo-b0.3").samples
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WORLDS)
def test_the_verdict_is_short_and_whole_whatever_the_world(name: str) -> None:
    found = verdict.sentences(WORLDS[name]())
    assert 1 <= len(found) <= 6
    for sentence in found:
        assert len(sentence) < 420, sentence
        assert re.search(r"\.$|--seeds \d+$", sentence), sentence
        assert not re.search(r"\bnan\b|  | ,|\(\)", sentence), sentence


# Who is ahead ------------------------------------------------------------------------------------------


def test_one_seed_claims_nothing() -> None:
    text = said(with_ends({"reinforce": [0.9], "ppo": [0.2]}))
    assert "nothing is claimed" in text
    assert "reinforce 0.900 and ppo 0.200, the base 0.500" in text
    assert not any(word in text for word in ("ahead", "above", "below", "told apart"))
    assert "--resume reports/x --seeds 5" in text


def test_a_clear_difference_is_said_with_its_interval() -> None:
    text = said(with_ends(CLEAR))
    estimate = stats.paired_difference(CLEAR["reinforce"], CLEAR["ppo"]).estimate
    interval = f"[{estimate.low:.3f}, {estimate.high:.3f}]"
    assert f"reinforce has the highest judge reward, 0.908, ahead of ppo by +0.300 {interval}." in text
    assert "Both arms end above the untouched base (judge reward 0.500)" in text
    assert "would likely tell" not in text


def test_an_unclear_difference_is_said_to_be_unclear() -> None:
    text = said(with_ends(UNCLEAR, base=0.1))
    assert "cannot be told apart from ppo (+0.033" in text
    assert "with 3 seeds" in text
    assert "ahead" not in text


def test_holm_and_not_the_single_interval_decides() -> None:
    """A difference whose own interval excludes 0 is not claimed where the family of pairs does not bear it."""
    generator = np.random.default_rng(3)
    scores = {f"arm{i}": list(0.5 + 0.01 * generator.normal(size=4)) for i in range(7)}
    scores["best"] = [value + 0.02 + 0.008 * i for i, value in enumerate(scores["arm0"])]
    made = with_ends(scores)
    (pair,) = [p for p in standings(evaluations(made)).end.pairs if {p.first, p.second} == {"best", "arm0"}]
    assert pair.difference.excludes_zero
    assert pair.p_holm > 0.05
    assert "ahead of" not in verdict.sentences(made)[0]


def test_falling_below_the_base_is_said() -> None:
    text = said(with_ends({"reinforce": [0.30, 0.31, 0.32], "ppo": [0.9, 0.91, 0.92]}))
    assert "1 of 2 arms ends above the untouched base" in text
    assert "1 ends below it" in text


def test_nothing_finished() -> None:
    assert "No run has reached its end" in said(WORLDS["all failed"]())
    made = world(Path("x"))
    unjudged = dataclasses.replace(made, results=made.results[made.results["metric"] != "reward/judge"])
    assert said(unjudged) == "No finished run was judged, so there is nothing to compare yet."


def test_no_pair_finished_the_same_seed() -> None:
    made = world(
        Path("x"), {"ppo": "ppo", "dpo": "dpo"}, 4, failed=[("ppo", 1), ("ppo", 0), ("dpo", 2), ("dpo", 3)]
    )
    assert "No two arms finished the same seed" in said(made)


# Without a spread between seeds ------------------------------------------------------------------------


def first_of(scores: dict[str, list[float]]) -> str:
    return verdict.sentences(with_ends(scores))[0]


def test_of_a_difference_without_spread_nothing_is_claimed() -> None:
    assert first_of({"ppo": [1.0] * 5, "dpo": [0.0] * 5}) == (
        "At the end of training ppo has the highest judge reward, 1.000; nothing is claimed of ppo's difference from dpo "
        "(+1.000), as there is no spread between seeds."
    )


def test_of_one_common_seed_nothing_is_claimed() -> None:
    assert first_of({"a": [0.65, 0.61, 0.7], "b": [0.6, 0.6, 0.6], "c": [0.5]}).endswith(
        "with 3 seeds; nothing is claimed of a's difference from c (+0.150), as there is one common seed."
    )


def test_equal_arms_are_called_equal_and_neither_highest() -> None:
    words = "At the end of training ppo and dpo are equal in every seed, with a judge reward of"
    assert first_of({"ppo": [1.0] * 5, "dpo": [1.0] * 5}) == f"{words} 1.000."
    assert first_of({"ppo": [0.7, 0.8, 0.9], "dpo": [0.7, 0.8, 0.9]}) == f"{words} 0.800."


def test_equal_arms_share_the_first_place() -> None:
    text = first_of({"ppo": [1.0] * 5, "dpo": [1.0] * 5, "reinforce": [0.5, 0.6, 0.55, 0.52, 0.58]})
    assert (
        "ppo and dpo, equal in every seed, have the highest judge reward, 1.000; ppo is ahead of reinforce"
        in text
    )


def test_equal_means_with_a_spread_keep_their_interval() -> None:
    scores = {"ppo": [0.9, 0.8, 0.7], "dpo": [0.8, 0.9, 0.7]}
    estimate = stats.paired_difference(scores["ppo"], scores["dpo"]).estimate
    shown = f"equal in the mean (+0.000 [−{-estimate.low:.3f}, {estimate.high:.3f}])"
    assert (
        first_of(scores) == f"At the end of training ppo and dpo are {shown}, with a judge reward of 0.800."
    )
    assert f"ppo and dpo, {shown}, have the highest judge reward, 0.800; ppo is ahead of x" in first_of(
        scores | {"x": [0.3, 0.2, 0.12]}
    )


def test_equal_on_common_seeds_alone_is_not_equal() -> None:
    """The one has a seed more, and another mean for it."""
    text = first_of({"a": [0.5, 0.5, 0.8], "b": [0.5, 0.5]})
    assert (
        "a has the highest judge reward, 0.600; nothing is claimed of a's difference from b (+0.000)" in text
    )


def test_comparisons_that_find_the_same_without_spread_are_said_together() -> None:
    found = standings(evaluations(with_ends({"ppo": [1.0] * 5, "dpo": [0.0] * 5}))).end
    other = dataclasses.replace(found, kind="cost", cost=5.0)
    assert claims.others(found, [other]) == [
        "The same holds at equal total cost (5 FLOPs, the most that all arms reached)."
    ]
    (level,) = claims.others(standings(evaluations(with_ends(UNCLEAR))).end, [other])
    assert "nothing is claimed of ppo's difference from dpo, as there is no spread between seeds." in level


# The three comparisons ---------------------------------------------------------------------------------


def at_kls(level: float, noise: float, last: float) -> list[tuple[float, float, float]]:
    points = [(0.0, 0.4), (0.5, level - 0.1 + noise), (1.5, level + noise), (last, level + 0.01 + noise)]
    return [(float(i), kl, judge) for i, (kl, judge) in enumerate(points)]


def three_paths() -> World:
    noises = (0.0, 0.01, -0.01, 0.005, -0.004)
    levels = {"reinforce": (0.7, 3.0), "dpo": (0.6, 2.0)}
    return with_paths(
        {
            arm: [at_kls(level, noise * (1 + i), last) for noise in noises]
            for i, (arm, (level, last)) in enumerate(levels.items())
        }
    )


def test_matched_kl_leads_where_beta_is_not_the_objectives() -> None:
    first, second, *_ = verdict.sentences(with_facts(three_paths(), **OWN))
    assert first.startswith(
        "At matched KL (the same distance from the base, wherever in training an arm passed it) reinforce is highest, "
    )
    assert "at 2.0 nats" in first
    assert "the β of dpo is not the coefficient of the objective" in first
    assert second.startswith("The same holds")
    plain = verdict.sentences(three_paths())
    assert plain[0].startswith("At the end of training reinforce has the highest judge reward, 0.710")
    assert "β" not in " ".join(plain)


def test_matched_kl_leads_where_the_arms_have_different_betas() -> None:
    first, second, *_ = verdict.sentences(with_betas(three_paths(), 0.01, 1.0))
    assert first.startswith("At matched KL")
    assert first.endswith(
        "It comes first because the arms' β differ (reinforce 0.01 and dpo 1), so they do not maximise one objective."
    )
    assert second.endswith("The ends lie at different KL: dpo 2.0 and reinforce 3.0 nats.")
    assert "β" not in said(with_betas(three_paths(), 0.3, 0.3))


def test_own_ends_at_different_betas_carry_a_warning_where_matched_kl_cannot_be_read() -> None:
    first = verdict.sentences(with_betas(one_pair_unread(), 0.01, 1.0, 0.1))[0]
    assert first.startswith("At the end of training dpo")
    assert "But the arms' β differ (reinforce 0.01, dpo 0.1 and ppo 1), so they do not maximise one" in first
    assert first.endswith("and the ends lie at different KL: dpo 2.0, ppo 2.5 and reinforce 3.0 nats.")


def test_a_sweep_of_beta_is_said_by_its_range() -> None:
    first = verdict.sentences(with_betas(twelve(3), *(0.02 * i for i in range(1, 13))))[0]
    assert "the arms' β differ (0.02 to 0.24), so they" in first


def test_different_betas_are_said_of_one_seed_too() -> None:
    text = said(with_betas(world(Path("x"), seeds=1), 0.01, 0.1, 1.0))
    assert "But the arms' β differ (reinforce 0.01, ppo 0.1 and dpo 1)" in text
    assert "β" not in said(with_betas(world(Path("x"), seeds=1), 0.1, 0.1, 0.1))


def test_a_beta_of_its_own_and_different_ones_are_both_said() -> None:
    first = verdict.sentences(with_betas(with_facts(world(Path("x")), **OWN), 0.01, 1.0, 0.3))[0]
    assert "the β of dpo is not the coefficient of an objective and those of the others differ" in first
    assert "(reinforce 0.01 and ppo 1)." in first


def test_the_beta_of_an_arm_that_did_not_finish_is_no_difference() -> None:
    made = world(Path("x"), failed=[("dpo", seed) for seed in range(3)])
    assert "β" not in said(with_betas(made, 0.1, 0.1, 1.0))


def test_own_ends_lead_with_a_warning_where_matched_kl_cannot_be_read() -> None:
    start, near = (0.0, 0.0, 0.4), [(1.0, 0.5, 0.55), (2.0, 1.0, 0.6)]
    jumps = [(1.0, 2.5, 0.6), (2.0, 3.0, 0.7)]
    made = with_paths(
        {
            arm: [[start, *((cost, kl, judge + noise) for cost, kl, judge in ends)] for noise in noises]
            for arm, ends, noises in (("ppo", jumps, (0.0, 0.01, -0.01)), ("dpo", near, (0.003, 0.0, 0.001)))
        }
    )
    first, *rest = verdict.sentences(with_facts(made, **OWN))
    assert first.startswith("At the end of training ppo")
    assert "the ends lie at different KL: dpo 1.0 and ppo 3.0 nats" in first
    (silent,) = [text for text in rest if text.startswith("At matched KL")]
    assert "nothing can be claimed: ppo passed that point too far from any evaluation" in silent


def one_pair_unread() -> World:
    """ppo below both others at matched KL, which cannot be read against each other: reinforce passed dpo's last KL
    before its first evaluation."""
    ends = {
        "reinforce": [(1.0, 2.2, 0.70), (2.0, 3.0, 0.75)],
        "ppo": [(1.0, 1.0, 0.50), (2.0, 2.5, 0.60)],
        "dpo": [(1.0, 1.0, 0.70), (2.0, 2.0, 0.80)],
    }
    noises = {"reinforce": (0.0, 0.01, -0.02), "ppo": (0.05, -0.1, 0.02), "dpo": (0.01, 0.0, -0.01)}
    return with_paths(
        {
            arm: [
                [(0.0, 0.0, 0.4), *((c, kl, judge + noise) for c, kl, judge in path)] for noise in noises[arm]
            ]
            for arm, path in ends.items()
        }
    )


def test_no_arm_is_called_highest_that_was_not_read_beside_every_other() -> None:
    made = with_facts(one_pair_unread(), **OWN)
    found = standings(evaluations(made)).kl
    assert [(pair.first, pair.second) for pair in found.pairs if pair.rough] == [("dpo", "reinforce")]
    assert found.leader is None
    first, *rest = verdict.sentences(made)
    assert first.startswith("At the end of training dpo has the highest judge reward")
    (matched,) = [text for text in rest if text.startswith("At matched KL")]
    assert "highest" not in matched
    assert "no two arms can be told apart; nothing can be claimed of dpo against reinforce there." in matched


def test_an_arm_that_hardly_moved_is_named_where_it_cannot_be_placed() -> None:
    def path(kl: float, judge: float, noise: float) -> list[tuple[float, float, float]]:
        return [(0.0, 0.0, 0.4), (1.0, kl / 2, judge - 0.1 + noise), (2.0, kl, judge + noise)]

    ends = {"ppo": (2.0, 0.6), "reinforce": (2.2, 0.8), "dpo": (0.01, 0.41)}
    noises = (0.0, 0.01, -0.01, 0.02)
    made = with_paths(
        {arm: [path(*end, noise * (1 + i)) for noise in noises] for i, (arm, end) in enumerate(ends.items())}
    )
    (matched,) = [text for text in verdict.sentences(made) if text.startswith("At matched KL")]
    assert "reinforce is highest, ahead of ppo; dpo hardly left the base and cannot be placed." in matched


def test_where_no_arm_is_above_all_others_pairs_are_said() -> None:
    found = standings(evaluations(one_pair_unread())).kl
    told = tuple(dataclasses.replace(pair, p_holm=0.01) for pair in found.pairs)
    text = claims.claim(dataclasses.replace(found, pairs=told), detailed=False)
    assert "no arm is above all others: reinforce is ahead of ppo and dpo is ahead of ppo; nothing" in text


def test_an_arm_that_another_beats_on_their_common_seeds_is_not_called_the_best() -> None:
    """Its mean is higher for seeds that the other did not finish."""
    first = verdict.sentences(with_ends({"a": [0.5, 0.501, 0.499, 0.9, 0.9], "b": [0.6, 0.6, 0.6]}))[0]
    assert "highest" not in first
    assert "no arm is above all others: b is ahead of a by +0.100" in first


def test_ends_near_the_base_are_told_apart_in_the_warning() -> None:
    def paths(kl: float) -> list[list[tuple[float, float, float]]]:
        return [[(0.0, 0.0, 0.4), (1.0, kl, 0.5 + noise)] for noise in (0.0, 0.01, -0.01)]

    made = with_facts(with_paths({"ppo": paths(0.047), "dpo": paths(0.033)}), **OWN)
    (warned,) = [text for text in verdict.sentences(made) if "the ends lie at different KL" in text]
    assert "dpo 0.033 and ppo 0.047 nats" in warned


def test_the_warning_stands_without_kl() -> None:
    made = with_facts(world(Path("x")), **OWN)
    results = made.results[made.results["metric"] != "kl/sequence"]
    first = verdict.sentences(dataclasses.replace(made, results=results))[0]
    assert first.endswith(
        "with 3 seeds. But the β of dpo is not the coefficient of the objective that the other arms maximise."
    )


def test_a_difference_at_equal_cost_is_not_that_at_the_end() -> None:
    slow = [(1.0, 0.0, 0.4), (3.0, 1.0, 0.5), (9.0, 2.0, 0.9)]
    fast = [(1.0, 0.0, 0.4), (2.0, 1.0, 0.7), (5.0, 2.0, 0.75)]
    noise = (0.0, 0.01, -0.01, 0.004)
    made = with_paths({arm: [[*path[:1], *((c, k, j + d * (1 + i)) for c, k, j in path[1:])] for d in noise]
                       for i, (arm, path) in enumerate((("slow", slow), ("fast", fast)))})  # fmt: skip
    text = said(made)
    assert "At the end of training slow has the highest judge reward, 0.901, ahead of fast" in text
    assert "At equal total cost (5 FLOPs, the most that all arms reached) fast has the highest" in text


def with_costs(**costs: float) -> World:
    """A comparison whose runs of these arms cost so many FLOPs in total."""
    made = world(Path("x"))
    results = made.results.copy()
    for arm, cost in costs.items():
        ends = (
            (results["metric"] == "cost/total_flops") & (results["arm"] == arm) & (results["point"] == POINTS)
        )
        results.loc[ends, "value"] = cost
    return dataclasses.replace(made, results=results)


def test_costs_are_said() -> None:
    text = said(with_costs(ppo=7.2e13))
    assert "reinforce is the cheapest with 2.40×10¹³ FLOPs, ppo the dearest with 3.0 times as much" in text


def test_arms_of_one_cost_are_named_together() -> None:
    text = said(with_costs(reinforce=1e13, dpo=1e13, ppo=3e13))
    assert "reinforce and dpo are the cheapest with 1.00×10¹³ FLOPs, ppo the dearest with 3.0 times" in text
    text = said(with_costs(reinforce=3.001e13, dpo=1e13, ppo=3e13))
    assert "dpo is the cheapest with 1.00×10¹³ FLOPs, reinforce and ppo the dearest with 3.0 times" in text


@pytest.mark.parametrize(
    ("last", "told"),
    [(1.1e10, "about 1.10×10¹⁰"), (1.102e10, "about 1.10×10¹⁰"), (1.2e10, "1.10×10¹⁰ to 1.20×10¹⁰")],
)
def test_costs_that_are_alike_are_one_number_where_they_print_so(last: float, told: str) -> None:
    text = said(with_costs(reinforce=1.1e10, ppo=1.101e10, dpo=last))
    assert f"In total cost (preparation and training) the arms are alike, {told} FLOPs." in text


# How many more seeds -----------------------------------------------------------------------------------


def test_the_forecast_is_that_of_holms_first_step() -> None:
    generator = np.random.default_rng(5)
    scores = {
        arm: list(level + 0.03 * generator.normal(size=4))
        for arm, level in (("a", 0.62), ("b", 0.55), ("c", 0.2))
    }
    made = with_ends(scores)
    needed = stats.seeds_needed(np.subtract(scores["a"], scores["b"]), comparisons=3, most=100)
    assert needed is not None
    assert needed > 4
    assert f"About {needed} seeds would likely tell a from b (a rough forecast from 4 seeds;" in said(made)
    assert said(made).endswith(f"rlhf-compare --resume reports/x --seeds {needed}")


def test_seeds_that_failed_are_asked_for_again() -> None:
    scores = {"a": [0.65, 0.61, 0.7, 0.64, 0.59], "b": [0.6, 0.6, 0.6, 0.6, 0.6]}
    made = with_ends(scores)
    runs = made.runs.copy()
    runs.loc[(runs["arm"] == "b") & (runs["seed"] == 2), "status"] = "failed"
    needed = stats.seeds_needed([0.05, 0.01, 0.04, -0.01], comparisons=1, most=100)
    assert needed is not None
    assert said(dataclasses.replace(made, runs=runs)).endswith(f"--seeds {needed + 1}")


def test_of_one_arm_too_seeds_that_failed_are_asked_for_again() -> None:
    def asked(failed: int) -> int:
        made = with_ends({"ppo": [0.56, 0.47, 0.55, 0.5, *[math.nan] * failed]})
        return int(said(made).rpartition("--seeds ")[2])

    assert asked(2) == asked(0) + 2


def test_a_difference_that_would_take_hundreds_of_seeds_is_called_small() -> None:
    text = said(with_ends({"a": [0.60, 0.70, 0.65, 0.62], "b": [0.605, 0.69, 0.66, 0.61]}))
    assert "To tell a from b would take more than 100 seeds" in text
    assert "--seeds" not in text


def test_nothing_is_forecast_of_pairs_whose_spread_is_not_known() -> None:
    text = said(with_ends({"a": [0.65, 0.61, 0.7], "b": [0.6, 0.6, 0.6], "c": [0.5]}))
    assert "would likely tell a from b" in text
    assert "more than 100 seeds" not in text
    constant = said(with_ends({"a": [0.9] * 5, "b": [0.4] * 5}))
    assert (
        "a has the highest judge reward, 0.900; nothing is claimed of a's difference from b (+0.500)"
        in constant
    )
    assert "more than 100 seeds" not in constant


def test_two_seeds_are_too_few_to_forecast() -> None:
    text = said(with_ends({"ppo": [0.52, 0.6], "dpo": [0.7, 0.71]}))
    assert "would likely" not in text
    assert text.endswith("begin with 5 seeds: rlhf-compare --resume reports/x --seeds 5")


# The section of pairs ----------------------------------------------------------------------------------


def tables_of(made: World) -> list[Table]:
    view = evaluations(made)
    found = standings(view)
    section = versus.section(view, found, verdict.leading(made, found))
    return [block for block in section.blocks if isinstance(block, Table) and "differences" in block.heading]


def test_three_tables_the_leading_one_first() -> None:
    plain, apart = tables_of(three_paths()), tables_of(with_facts(three_paths(), **OWN))
    titles = ["At each arm's own end", "At equal total cost", "At matched KL"]
    assert [table.heading.partition(":")[0] for table in plain] == titles
    assert [table.heading.partition(":")[0] for table in apart] == [titles[2], *titles[:2]]
    heads = [column.label for column in apart[0].columns]
    (row,) = [[cell.text for cell in row] for row in apart[0].rows]
    assert dict(zip(heads, row, strict=True)) | {"p": "", "effect": "", "difference": ""} == {
        "higher": "reinforce", "lower": "dpo", "difference": "", "p": "", "P(higher is better)": "1.00", "effect": "",
        "KL": "2.00", "seeds": "5", "at 5%": "told apart",
    }  # fmt: skip


def test_tables_are_folded_where_there_are_many_arms() -> None:
    assert [bool(table.folded) for table in tables_of(three_paths())] == [False, False, False]
    four = with_ends({f"arm{i}": [0.5, 0.6, 0.55] for i in range(4)})
    assert [bool(table.folded) for table in tables_of(four)] == [False, True, True]
    assert [bool(table.folded) for table in tables_of(twelve(3))] == [True, True, True]


def test_a_comparison_that_cannot_be_made_says_why() -> None:
    still = [(0.0, 0.0, 0.4), (1.0, 0.01, 0.4), (2.0, 0.01, 0.41)]
    moved = [(0.0, 0.0, 0.4), (1.0, 1.0, 0.5), (2.0, 2.0, 0.6)]
    made = with_paths({"still": [still, still], "moved": [moved, moved]})
    view = evaluations(made)
    found = standings(view)
    texts = [b for b in versus.section(view, found, found.end).blocks if isinstance(b, Text)]
    (why,) = [text.text for text in texts if text.label == "At matched KL"]
    assert "still stayed within 0.05 nats of the base" in why
