"""The verdict in a few sentences: whole whatever the comparison, who is ahead, what it cost."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from report_cases import OWN, answered, twelve, with_betas, with_facts
from report_words import said
from report_world import ARMS, POINTS, World, with_ends, world

from eval import stats
from eval.report.document import Bullets, Table, Text
from eval.report.numbers.frames import evaluations
from eval.report.numbers.standings import standings
from eval.report.sections import claims, summary, verdict, versus

CLEAR = {"reinforce": [0.90, 0.91, 0.92, 0.90, 0.91], "ppo": [0.60, 0.62, 0.61, 0.61, 0.6]}
UNCLEAR = {"reinforce": [0.9, 0.4, 0.6], "ppo": [0.6, 0.7, 0.5]}


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
    found = verdict.read(WORLDS[name]()).sentences
    assert 1 <= len(found) <= 6
    for sentence in found:
        assert len(sentence) < 420, sentence
        assert re.search(r"\.$|--seeds \d+$", sentence), sentence
        assert not re.search(r"\bnan\b|  | ,|\(\)", sentence), sentence


def test_one_seed_claims_nothing() -> None:
    text = said(with_ends({"reinforce": [0.9], "ppo": [0.2]}))
    assert "nothing is claimed" in text
    assert "reinforce 0.900 and ppo 0.200, the base 0.500" in text
    assert not any(word in text for word in ("ahead", "above", "below", "told apart"))
    assert "--resume reports/x --seeds 5" in text


def test_one_run_is_said_to_be_one() -> None:
    """Alone, or the one of several arms that finished; and where some arms have none."""
    alone = said(with_ends({"ppo": [0.5]}))
    assert alone.startswith("There is one finished run, so ")
    assert (
        "nothing is claimed about the algorithm. In this run judge reward ended at: ppo 0.500, the base"
        in alone
    )
    assert "For an answer about the algorithm begin with" in alone
    assert said(world(Path("x"), seeds=1, failed=[("ppo", 0), ("dpo", 0)])).startswith(
        "There is one finished run"
    )
    some = said(world(Path("x"), seeds=1, failed=[("ppo", 0)]))
    assert some.startswith("No arm has more than one finished run")
    assert "nothing is claimed about the algorithms. In these runs" in some
    assert said(with_ends({"ppo": [0.5], "dpo": [0.7]})).startswith("Each arm has one finished run")


def test_a_clear_difference_is_said_with_its_interval() -> None:
    text = said(with_ends(CLEAR))
    estimate = stats.paired_difference(CLEAR["reinforce"], CLEAR["ppo"]).estimate
    interval = f"[{estimate.low:.3f}, {estimate.high:.3f}]"
    assert f"reinforce has the highest mean judge reward, 0.908, ahead of ppo by 0.300 {interval}." in text
    assert "Both arms end above the untouched base (judge reward 0.500)" in text
    assert "would likely tell" not in text


def test_an_unclear_difference_is_said_to_be_unclear() -> None:
    text = said(with_ends(UNCLEAR, base=0.1))
    assert "cannot be told apart from ppo (+0.033" in text
    assert text.startswith("At the end of training, over 3 seeds, ")
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
    assert "ahead of" not in verdict.read(made).sentences[0]


def test_an_interval_that_excludes_0_of_arms_not_told_apart_is_explained_once() -> None:
    """Each pair's own interval excludes 0, and Holm's correction for three pairs takes both claims back."""
    scores = {"reinforce": [0.7, 0.8], "ppo": [0.50, 0.585], "dpo": [0.511, 0.595]}
    (first, *_), end = (
        verdict.read(with_ends(scores)).sentences,
        standings(evaluations(with_ends(scores))).end,
    )
    assert all(pair.difference.excludes_zero and not pair.told_apart for pair in end.of("reinforce"))
    assert first.startswith("At the end of training, over 2 seeds, ")
    assert first.endswith("]) (these are intervals before Holm's correction for 3 pairs).")
    assert first.count("Holm") == 1
    assert "Holm" not in said(with_ends(UNCLEAR)), "its interval includes 0"
    assert "Holm" not in said(with_ends(CLEAR))


def test_it_is_explained_where_no_arm_is_the_best_too() -> None:
    scores = {"reinforce": [0.7, 0.8], "ppo": [0.50, 0.585], "dpo": [0.511, 0.595]}
    end = standings(evaluations(with_ends(scores))).end
    kl = dataclasses.replace(end, kind="kl", pairs=tuple(p for p in end.pairs if p.second != "ppo"))
    around = dataclasses.replace(kl.pairs[0], first=kl.pairs[0].second, second=kl.pairs[0].first)
    cycle = dataclasses.replace(
        kl, pairs=(*kl.pairs, dataclasses.replace(around, first="ppo", second="reinforce"))
    )
    text = claims.claim(cycle, detailed=True)
    assert "no two arms can be told apart" in text
    assert f"]) (these are intervals before Holm's correction for {cycle.family} pairs)" in text
    assert "Holm" not in claims.claim(cycle, detailed=False)


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


# Without a spread between seeds ----------------------------------------------------------------------


def first_of(scores: dict[str, list[float]]) -> str:
    return verdict.read(with_ends(scores)).sentences[0]


def test_of_a_difference_without_spread_nothing_is_claimed() -> None:
    assert first_of({"ppo": [1.0] * 5, "dpo": [0.0] * 5}) == (
        "At the end of training, over 5 seeds, ppo has the highest mean judge reward, 1.000; nothing is claimed of ppo's difference from dpo "
        "(+1.000), as there is no spread between seeds."
    )


def test_a_difference_that_is_the_same_in_every_seed_is_said_to_be() -> None:
    """Both arms have a spread: that it is missing would be false."""
    assert first_of({"ppo": [0.7, 0.8, 0.9], "dpo": [0.2, 0.3, 0.4]}).endswith(
        "; nothing is claimed of ppo's difference from dpo (+0.500), as it is the same in every seed."
    )
    assert first_of({"a": [0.7, 0.8, 0.9], "b": [0.2, 0.3, 0.4], "c": [0.1, 0.2, 0.3]}).endswith(
        "; nothing is claimed of a's difference from b (+0.500) and c (+0.600), as each is the same in every seed."
    )


def test_of_one_common_seed_nothing_is_claimed() -> None:
    assert first_of({"a": [0.65, 0.61, 0.7], "b": [0.6, 0.6, 0.6], "c": [0.5]}).endswith(
        "with 3 seeds; nothing is claimed of a's difference from c (+0.150), as there is one common seed."
    )


def test_equal_arms_are_called_equal_and_neither_highest() -> None:
    words = "ppo and dpo are equal in every seed, with a judge reward of"
    where = "At the end of training, over"
    assert first_of({"ppo": [1.0] * 5, "dpo": [1.0] * 5}) == f"{where} 5 seeds, {words} 1.000."
    alike = {"ppo": [0.7, 0.8, 0.9], "dpo": [0.7, 0.8, 0.9]}
    assert first_of(alike) == f"{where} 3 seeds, {words} 0.800."


def test_equal_arms_share_the_first_place() -> None:
    text = first_of({"ppo": [1.0] * 5, "dpo": [1.0] * 5, "reinforce": [0.5, 0.6, 0.55, 0.52, 0.58]})
    assert (
        "ppo and dpo, equal in every seed, have the highest mean judge reward, 1.000; ppo is ahead of reinforce"
        in text
    )


def test_equal_means_with_a_spread_keep_their_interval() -> None:
    scores = {"ppo": [0.9, 0.8, 0.7], "dpo": [0.8, 0.9, 0.7]}
    estimate = stats.paired_difference(scores["ppo"], scores["dpo"]).estimate
    shown = f"equal in the mean (+0.000 [−{-estimate.low:.3f}, {estimate.high:.3f}])"
    assert (
        first_of(scores)
        == f"At the end of training, over 3 seeds, ppo and dpo are {shown}, with a judge reward of 0.800."
    )
    assert f"ppo and dpo, {shown}, have the highest mean judge reward, 0.800; ppo is ahead of x" in first_of(
        scores | {"x": [0.3, 0.2, 0.12]}
    )


def test_equal_on_common_seeds_alone_is_not_equal() -> None:
    """The one has a seed more, and another mean for it."""
    text = first_of({"a": [0.5, 0.5, 0.8], "b": [0.5, 0.5]})
    assert (
        "a has the highest mean judge reward, 0.600; nothing is claimed of a's difference from b (+0.000)"
        in text
    )


def test_comparisons_that_find_the_same_without_spread_are_said_together() -> None:
    found = standings(evaluations(with_ends({"ppo": [1.0] * 5, "dpo": [0.0] * 5}))).end
    other = dataclasses.replace(found, kind="cost", cost=5.0)
    assert claims.others(found, [other]) == [
        "The same holds at equal total cost (5 FLOPs, the most that all arms reached)."
    ]
    (level,) = claims.others(standings(evaluations(with_ends(UNCLEAR))).end, [other])
    assert "nothing is claimed of ppo's difference from dpo, as there is no spread between seeds." in level


# Where most seeds say the other way round than the mean ----------------------------------------------

COLLAPSED = {"ppo": [0.77, 0.78, 0.76, 0.77, 0.78], "reinforce": [0.80, 0.79, 0.79, 0.81, 0.2]}


def test_an_arm_of_a_lower_mean_that_is_above_in_most_seeds_is_said_to_be() -> None:
    assert re.search(
        r"cannot be told apart from reinforce \(\+0\.094 \[[^]]*\]\), which is above it in 4 of 5 seeds\.",
        first_of(COLLAPSED),
    )
    assert first_of(COLLAPSED | {"far": [0.1, 0.12, 0.1, 0.11, 0.1]}).count("above it in 4 of 5 seeds") == 1
    level = {"other": [0.80, 0.75, 0.74, 0.71, 0.81]}
    assert ", of which reinforce is above it in 4 of 5 seeds." in first_of(COLLAPSED | level)
    both = {"again": [0.79, 0.80, 0.79, 0.80, 0.1]}
    assert ", of which reinforce and again are above it in 4 of 5 seeds." in first_of(COLLAPSED | both)


def test_where_the_seeds_agree_with_the_mean_or_the_arm_is_behind_nothing_is_said_of_them() -> None:
    assert "above it in" not in first_of(UNCLEAR | {"ppo": [0.5, 0.4, 0.5]})
    assert "above it in" not in first_of({"ppo": [0.9, 0.5], "dpo": [0.6, 0.7]}), "one of two is not most"
    (pair,) = standings(evaluations(with_ends(COLLAPSED))).end.pairs
    assert (pair.first, pair.against, pair.contrary) == ("ppo", 4, True)
    assert claims.above_it("reinforce", [pair]) == "", "it is said of the arm with the higher mean"


# A judge of a small scale ----------------------------------------------------------------------------


def test_a_judge_of_a_small_scale_keeps_its_digits() -> None:
    """Everything that is said of its rewards is what it is of the same rewards a hundred thousand times as large."""
    scores = {arm: [1e-5 * score for score in own] for arm, own in CLEAR.items()}
    large, small = with_ends(CLEAR), with_ends(scores, base=0.5e-5)
    assert (
        "reinforce has the highest mean judge reward, 0.00000908, ahead of ppo by 0.00000300 [0.00000288, 0.00000312]."
        in said(small)
    )
    assert (
        "the untouched base (judge reward 0.00000500): reinforce +0.00000408 [0.00000398, 0.00000418]"
        in said(small)
    )
    assert said(large).count("told apart") == said(small).count("told apart")
    alone = with_ends({"ppo": [2.5e-5], "dpo": [3.1e-5]}, base=1e-5)
    assert "ended at: dpo 0.0000310 and ppo 0.0000250, the base 0.0000100." in said(alone)


def test_so_do_the_tables_and_caveats() -> None:
    near = [0.70, 0.71, 0.69, 0.705, 0.2]
    made = with_ends({"ppo": [1e-5 * score for score in near], "dpo": [0.7e-5] * 3}, base=0.5e-5)
    view = evaluations(made)
    found = standings(view)
    tables = [*summary.ends(made, view).blocks, *versus.section(view, found, found.end).blocks]
    for table in (t for t in tables if isinstance(t, Table) and t.heading.lower().startswith("judge reward")):
        assert all(
            re.search("[1-9]", cell.text) for row in table.rows for cell in row[1:] if cell.text != "–"
        )
    pairs = [row for t in tables if isinstance(t, Table) and "differences" in t.heading for row in t.rows]
    assert pairs
    assert all(re.search(r"\.\d{8}", row[2].text) for row in pairs)
    assert any(
        "ppo seed 4 ended at judge reward 0.00000200, the others at 0.00000690 to 0.00000710" in text
        for text in verdict.read(made).warnings
    )


def test_the_section_and_the_terminal_tell_the_same() -> None:
    made = with_ends(UNCLEAR)
    view, told = evaluations(made), verdict.read(made)
    blocks = verdict.section(made, view, standings(view), {}).blocks
    lists = [b.items for b in blocks if isinstance(b, Bullets)]
    assert lists == [told.sentences, told.warnings]
    (short,) = [index for index, b in enumerate(blocks) if b == Text(told.short, label="In short")]
    assert isinstance(blocks[short + 1], Bullets)
    assert told.warnings


# Costs -------------------------------------------------------------------------------------------------


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
    assert (
        "reinforce is the cheapest with 2.40×10¹³ FLOPs, ppo the most expensive with 3.0 times as much"
        in text
    )


def test_arms_of_one_cost_are_named_together() -> None:
    text = said(with_costs(reinforce=1e13, dpo=1e13, ppo=3e13))
    assert (
        "reinforce and dpo are the cheapest with 1.00×10¹³ FLOPs, ppo the most expensive with 3.0 times"
        in text
    )
    text = said(with_costs(reinforce=3.001e13, dpo=1e13, ppo=3e13))
    assert (
        "dpo is the cheapest with 1.00×10¹³ FLOPs, reinforce and ppo the most expensive with 3.0 times"
        in text
    )


def test_arms_of_nearly_one_cost_are_named_together() -> None:
    text = said(with_costs(reinforce=3e13, dpo=1e13, ppo=2.98e13))
    assert "FLOPs, reinforce and ppo the most expensive with 3.0 times as much." in text
    text = said(with_costs(reinforce=1.03e13, dpo=1e13, ppo=3e13))
    assert "reinforce and dpo are the cheapest with 1.00×10¹³ to 1.03×10¹³ FLOPs, ppo the most" in text
    text = said(with_costs(reinforce=1.1e13, dpo=1e13, ppo=3e13))
    assert "dpo is the cheapest with 1.00×10¹³ FLOPs, ppo the most" in text


@pytest.mark.parametrize(
    ("last", "told"),
    [(1.1e10, "about 1.10×10¹⁰"), (1.102e10, "about 1.10×10¹⁰"), (1.2e10, "1.10×10¹⁰ to 1.20×10¹⁰")],
)
def test_costs_that_are_alike_are_one_number_where_they_print_so(last: float, told: str) -> None:
    text = said(with_costs(reinforce=1.1e10, ppo=1.101e10, dpo=last))
    assert f"In total cost (preparation and training) the arms are alike, {told} FLOPs." in text
