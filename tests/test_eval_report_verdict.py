from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_world import ARMS, POINTS, World, with_ends, with_paths, world

from eval import stats
from eval.report import claims, conditions, verdict, versus
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


# The base, which was evaluated once ---------------------------------------------------------------------


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


def gained(made: World, arm: str = "ppo") -> conditions.Gain:
    return conditions.gain(made, evaluations(made), arm)


def test_the_noise_of_the_one_evaluation_of_the_base_is_no_gain() -> None:
    found = [gained(answered(0.0, seeds=10, draw=draw)) for draw in range(40)]
    assert sum(gain.seeds.excludes_zero for gain in found) > 10
    assert sum(gain.estimate.excludes_zero for gain in found) <= 4


def test_what_seeds_alone_would_claim_is_left_open() -> None:
    worlds = [answered(0.0, seeds=10, draw=draw) for draw in range(10)]
    text = said(next(made for made in worlds if gained(made).left_open))
    assert "The one arm cannot be told apart from the untouched base" in text
    assert "(the seeds alone would tell ppo from it, the prompts do not settle it)." in text
    assert "More seeds alone would hardly tell it from the base" in text
    assert not any(word in text for word in ("above", "below", "--seeds"))


def test_a_clear_gain_is_claimed_over_seeds_and_prompts() -> None:
    made = answered(0.2)
    gain = gained(made)
    seeds, prompts, both = gain.seeds, gain.prompts, gain.estimate
    assert prompts.mean == pytest.approx(seeds.mean)
    assert both.half_width == pytest.approx(np.hypot(seeds.half_width, prompts.half_width), rel=0.05)
    shown = f"ppo +{both.mean:.3f} [{both.low:.3f}, {both.high:.3f}]."
    assert "The one arm ends above the untouched base" in said(made)
    assert shown in said(made)
    assert "prompts" not in said(made)
    assert "The one arm ends below" in said(answered(-0.2))


@pytest.mark.parametrize("without", [pd.DataFrame(), answered(0.2, arm="dpo").samples])
def test_without_scores_by_prompt_the_claim_is_by_seeds_and_says_so(without: pd.DataFrame) -> None:
    made = dataclasses.replace(answered(0.2), samples=without)
    assert gained(made).estimate == gained(made).seeds
    assert "The one arm ends above the untouched base" in said(made)
    assert "Without scores by prompt the intervals leave out the noise of the prompts." in said(made)
    assert "evaluated once" not in held(made)
    assert "Against the base, which was evaluated once, they are over seeds and test prompts" in held(
        answered(0.2)
    )


def test_arms_without_scores_by_prompt_are_named_beside_those_with_them() -> None:
    alone = answered(0.2)
    made = with_ends({"ppo": [0.7, 0.71, 0.72, 0.7, 0.71], "dpo": [0.8, 0.81, 0.82, 0.8, 0.81]})
    text = said(dataclasses.replace(made, samples=alone.samples))
    assert "Without scores by prompt the intervals of dpo leave out the noise of the prompts." in text


def test_few_prompts_settle_no_small_gain() -> None:
    worlds = [answered(0.0, seeds=10, prompts=4, draw=draw) for draw in range(40)]
    assert sum(gained(made).seeds.excludes_zero for made in worlds) > 10
    assert sum(gained(made).estimate.excludes_zero for made in worlds) <= 4


def test_seeds_of_which_the_end_is_not_known_are_in_no_gain() -> None:
    made = answered(0.2)
    runs = made.runs.assign(status=["failed", *["done"] * 4])
    samples = made.samples.copy()
    samples.loc[(samples["arm"] == "ppo") & (samples["seed"] == 0), "judge"] = 99.0
    gain = gained(dataclasses.replace(made, runs=runs, samples=samples))
    assert gain.prompts.mean == pytest.approx(gain.seeds.mean)


def test_the_forecast_against_the_base_leaves_room_for_the_prompts() -> None:
    made = answered(0.06, seeds=3, noise=0.08)
    uneven = {0: -0.06, 1: 0.0, 2: 0.06}  # what training did to each seed
    lifts = made.samples["seed"].map(uneven).where(made.samples["arm"] == "ppo", 0.0)
    samples = made.samples.assign(judge=made.samples["judge"] + lifts)
    ends = samples[samples["arm"] == "ppo"].groupby("seed")["judge"].mean()
    base = float(samples.loc[samples["arm"] == "base", "judge"].mean())
    spread = dataclasses.replace(with_ends({"ppo": list(ends)}, base=base), samples=samples)
    needed = re.search(r"About (\d+) seeds would likely tell it from the base", said(spread))
    by_seeds = stats.seeds_needed(list(ends - base), most=100)
    assert needed is not None
    assert by_seeds is not None
    assert int(needed[1]) > by_seeds


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
    assert "nothing can be claimed: ppo passed that point before the first evaluation" in silent


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


def test_costs_are_said() -> None:
    made = world(Path("x"))
    results = made.results.copy()
    dear = (
        (results["metric"] == "cost/total_flops") & (results["arm"] == "ppo") & (results["point"] == POINTS)
    )
    results.loc[dear, "value"] = 7.2e13
    text = said(dataclasses.replace(made, results=results))
    assert "reinforce is the cheapest with 2.40×10¹³ FLOPs, ppo the dearest with 3.0 times as much" in text


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


def test_a_difference_that_would_take_hundreds_of_seeds_is_called_small() -> None:
    text = said(with_ends({"a": [0.60, 0.70, 0.65, 0.62], "b": [0.605, 0.69, 0.66, 0.61]}))
    assert "To tell a from b would take more than 100 seeds" in text
    assert "--seeds" not in text


def test_nothing_is_forecast_of_pairs_whose_spread_is_not_known() -> None:
    text = said(with_ends({"a": [0.65, 0.61, 0.7], "b": [0.6, 0.6, 0.6], "c": [0.5]}))
    assert "would likely tell a from b" in text
    assert "more than 100 seeds" not in text
    constant = said(with_ends({"a": [0.9] * 5, "b": [0.4] * 5}))
    assert "a has the highest judge reward, 0.900, but cannot be told apart from b" in constant
    assert "more than 100 seeds" not in constant


def test_two_seeds_are_too_few_to_forecast() -> None:
    text = said(with_ends({"ppo": [0.52, 0.6], "dpo": [0.7, 0.71]}))
    assert "would likely" not in text
    assert text.endswith("begin with 5 seeds: rlhf-compare --resume reports/x --seeds 5")


# What the intervals hold for ---------------------------------------------------------------------------


def with_samples(made: World, spread: float, prompts: int = 40) -> World:
    """Prompts on which the arms differ by `spread` (standard deviation), the same for all seeds."""
    generator = np.random.default_rng(0)
    effects = spread * generator.normal(size=prompts)
    rows = [
        {"arm": arm, "seed": seed, "prompt_id": i, "length": 10, "judge": 0.5 + sign * effects[i] / 2}
        for arm, sign in (("base", 0), ("reinforce", 1), ("ppo", -1))
        for seed in range(1 if arm == "base" else 5)
        for i in range(prompts)
    ]
    return dataclasses.replace(made, samples=pd.DataFrame(rows))


def held(made: World) -> str:
    found = standings(evaluations(made))
    return conditions.sentence(made, found.end, verdict.leading(made, found))


def test_other_prompts_are_mentioned_where_they_matter() -> None:
    quiet, loud = with_samples(with_ends(CLEAR), 0.001), with_samples(with_ends(CLEAR), 0.5)
    assert "Other prompts" not in held(quiet)
    pair = standings(evaluations(loud)).end.pairs[0]
    effect = conditions.prompt_effect(loud, pair)
    samples = loud.samples.groupby(["arm", "prompt_id"])["judge"].mean()
    difference = samples["reinforce"] - samples["ppo"]
    assert effect.mean == pytest.approx(difference.mean())
    assert effect.half_width == pytest.approx(1.96 * difference.std() / np.sqrt(40), rel=0.1)
    assert (
        f"Other prompts would move the difference between reinforce and ppo by ± {effect.half_width:.3f}"
        in held(loud)
    )
    assert held(loud) == held(loud)


def test_few_prompts_say_nothing_of_other_prompts() -> None:
    assert "Other prompts" not in held(with_samples(with_ends(CLEAR), 0.5, prompts=15))


def test_holms_pairs_are_those_of_the_leading_comparison_that_have_a_p_value() -> None:
    ends = {"reinforce": [0.9, 0.91, 0.93], "ppo": [0.6, 0.65, 0.61], "dpo": [0.7, 0.72, 0.71]}
    assert "Holm's correction for 3 pairs" in held(with_ends(ends))
    assert "Holm" not in held(with_ends(ends | {"dpo": [0.7]}))  # of one common seed
    assert "for 3 pairs" in held(with_ends(ends | {"best": [0.99]}))
    end = standings(evaluations(with_ends(ends))).end
    lead = dataclasses.replace(end, kind="kl", pairs=end.pairs[:2])
    assert "for 2 pairs" in conditions.sentence(with_ends(ends), end, lead)


def test_the_data_seed_is_said() -> None:
    made = with_samples(with_ends(CLEAR), 0.1)
    assert "data seed 0, which all seeds share" in held(made)
    assert "these 40 test prompts" in held(made)
    anew = dataclasses.replace(made, experiment={"replicate_data": True})
    assert "drawn anew for every seed" in held(anew)
    assert held(with_ends({"ppo": [0.5], "dpo": [0.6]})) == ""


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
