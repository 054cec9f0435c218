from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from report_cases import answered
from report_words import held, said
from report_world import World, with_ends

from eval import stats
from eval.report.caveats import conditions
from eval.report.document import Table
from eval.report.numbers.frames import evaluations
from eval.report.sections import summary


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
    assert (
        "By its seeds alone ppo would be told apart from the base, but not once the noise of the prompts is counted."
    ) in text
    assert "More seeds alone would hardly tell it from the base" in text
    assert not any(word in text for word in ("above", "below", "--seeds"))


def test_of_several_arms_none_of_which_is_told_from_the_base() -> None:
    wide = [0.3, 0.7, 0.5]
    two, three = (with_ends({f"ppo-{i}": wide for i in range(count)}, base=0.45) for count in (2, 3))
    assert "Neither arm can be told apart from the untouched base" in said(two)
    assert "None of the 3 arms can be told apart from the untouched base" in said(three)
    one_above = with_ends({"ppo-0": wide, "ppo-1": [0.9, 0.91, 0.92]}, base=0.45)
    assert "1 of 2 arms ends above the untouched base" in said(one_above)
    assert "; 1 cannot be told apart from it" in said(one_above)


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
    assert ". The intervals leave out the noise of the prompts." in said(made)
    assert "evaluated once" not in held(made)
    assert "Intervals against the base, which was evaluated once, cover seeds and test prompts" in held(
        answered(0.2)
    )


def test_one_prompt_shows_no_noise_of_prompts() -> None:
    one = answered(0.2, prompts=1)
    assert gained(one).seeds_alone
    assert ". The intervals leave out the noise of the prompts." in said(one)


def test_arms_without_scores_by_prompt_are_named_beside_those_with_them() -> None:
    alone = answered(0.2)
    made = with_ends({"ppo": [0.7, 0.71, 0.72, 0.7, 0.71], "dpo": [0.8, 0.81, 0.82, 0.8, 0.81]})
    text = said(dataclasses.replace(made, samples=alone.samples))
    assert ". The intervals of dpo leave out the noise of the prompts." in text


@pytest.mark.parametrize("samples", [answered(0.2).samples, pd.DataFrame()], ids=["by prompt", "without"])
def test_the_table_of_every_seed_has_the_verdicts_interval(samples: pd.DataFrame) -> None:
    made = dataclasses.replace(answered(0.2), samples=samples)
    *_, table = summary.ends(made, evaluations(made)).blocks
    assert isinstance(table, Table)
    cell = table.rows[0][-1]
    assert f": ppo {cell.text} {cell.small}." in said(made)
    over = "seeds and test prompts together" if len(samples) else "seeds"
    assert f"The gain's interval is the verdict's: over {over}, one arm at a time" in table.caption


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


# Seeds without a spread --------------------------------------------------------------------------------


def test_seeds_that_all_gave_the_same_are_neither_told_from_the_base_nor_called_unclear() -> None:
    text = said(with_ends({"ppo": [1.0] * 5}, base=0.1))
    assert text == (
        "The one arm shows no spread between seeds, so no difference from the untouched base (judge reward 0.100) is "
        "claimed: ppo +0.900."
    )


def test_no_number_of_seeds_is_forecast_without_a_spread() -> None:
    text = said(with_ends({"ppo": [1.0] * 3}, base=0.1))
    assert "would take" not in text
    assert "would likely" not in text
    assert text.endswith("begin with 5 seeds: rlhf-compare --resume reports/x --seeds 5")


def test_an_interval_over_prompts_alone_claims_nothing() -> None:
    """The prompts leave no doubt, but how much other seeds would differ is not known."""
    made = answered(0.2)
    samples = made.samples.assign(judge=made.samples["judge"].where(made.samples["arm"] == "base", 1.0))
    ends = with_ends({"ppo": [1.0] * 5}, base=float(samples.loc[samples["arm"] == "base", "judge"].mean()))
    saturated = dataclasses.replace(ends, samples=samples)
    assert gained(saturated).prompts.excludes_zero
    assert not gained(saturated).estimate.has_interval
    assert "shows no spread between seeds, so no difference from the untouched base" in said(saturated)


def test_each_arm_is_said_by_what_is_known_of_it() -> None:
    made = with_ends({"a": [0.9, 0.91, 0.92], "b": [0.5, 0.7, 0.6], "c": [1.0] * 3, "d": [0.8]}, base=0.55)
    (text,) = [sentence for sentence in said(made).split(". ") if "untouched base" in sentence]
    parts = text.split("; ")
    assert parts[0].startswith("1 of 4 arms ends above the untouched base (judge reward 0.550): a +0.360 [")
    assert parts[1].startswith("1 cannot be told apart from it: b +0.050 [")
    assert parts[2] == "1 shows no spread between seeds, so no difference from it is claimed: c +0.450"
    assert parts[3] == "1 finished one seed, so no difference from it is claimed: d +0.250"
