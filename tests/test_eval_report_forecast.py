"""How many more seeds the verdict asks for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from report_words import said
from report_world import World, with_ends

from eval import stats

SECONDS = "cost/train_seconds"
OPEN = {"a": [0.65, 0.61, 0.7, 0.64], "b": [0.60, 0.60, 0.60, 0.62]}
"""Two arms that nine seeds would likely tell apart."""


def trained_for(made: World, **seconds: float) -> World:
    """The comparison, each run of an arm trained for so long."""
    results = made.results.copy()
    measured = results["metric"] == SECONDS
    for arm, each in seconds.items():
        results.loc[measured & (results["arm"] == arm), "value"] = each
    return dataclasses.replace(made, results=results)


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
    assert (
        f"About {needed} seeds would likely tell a from b ({needed - 4} more of each arm, about {round((needed - 4) * 81 / 60)} "
        "minutes of training on one worker here; a rough forecast from 4 seeds; testing again after adding seeds makes false "
        "claims about twice as likely): "
    ) in said(made)
    assert said(made).endswith(f"rlhf-compare --resume reports/x --seeds {needed}")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.1, "less than a minute of training"),
        (6.0, "about 1 minute of training"),  # 5 seeds of 2 arms
        (60.0, "about 10 minutes of training"),
        (530.0, "about 88 minutes of training"),
        (3_600.0, "about 10 hours of training"),
        (17_000.0, "about 47 hours of training"),
        (90_000.0, "about 10 days of training"),
    ],
)
def test_the_price_of_more_seeds_is_said_in_plain_units(seconds: float, words: str) -> None:
    made = trained_for(with_ends(OPEN), a=seconds, b=seconds)
    assert "About 9 seeds would likely tell a from b (5 more of each arm, " + words in said(made)


def test_the_price_is_that_of_every_arm_and_of_the_mean_run() -> None:
    """60 and 120 s in one arm, 30 s in the other, 20 s in one that is told apart."""
    scores = OPEN | {"c": [0.1, 0.11, 0.1, 0.11]}
    made = trained_for(with_ends(scores), a=60.0, b=30.0, c=20.0)
    rows = (made.results["metric"] == SECONDS) & (made.results["arm"] == "a") & (made.results["seed"] > 1)
    made.results.loc[rows, "value"] *= 2
    more = int(said(made).rpartition("--seeds ")[2]) - 4
    assert (
        f"({more} more of each arm, about {round(more * 140 / 60)} minutes of training on one worker"
        in said(made)
    )


def test_without_an_arms_seconds_there_is_no_price() -> None:
    made = with_ends(OPEN)
    results = made.results[(made.results["metric"] != SECONDS) | (made.results["arm"] != "b")]
    assert "tell a from b (a rough forecast from 4 seeds;" in said(dataclasses.replace(made, results=results))


def test_one_arm_alone_has_a_price_too() -> None:
    text = said(trained_for(with_ends({"ppo": [0.56, 0.47, 0.55, 0.5]}), ppo=60.0))
    more = int(text.rpartition("--seeds ")[2]) - 4
    assert (
        f"would likely tell it from the base ({more} more, about {more} minutes of training on one worker here): "
        in text
    )


# Seeds apart from the others ----------------------------------------------------------------------------

APART = "so no number of seeds is forecast"


def test_no_number_is_forecast_by_one_seed_far_from_the_others() -> None:
    text = said(
        with_ends(
            {"reinforce": [0.805, 0.790, 0.791, 0.807, 0.233], "ppo": [0.774, 0.778, 0.779, 0.777, 0.758]}
        )
    )
    assert text.endswith(
        "One seed of reinforce lies apart from the others, so no number of seeds is forecast. Look first at why "
        "(docs/choosing.md names the signs of too large a step, for which a smaller learning rate may settle more than seeds)."
    )
    assert "--seeds" not in text


def test_what_does_not_set_the_differences_apart_is_no_hindrance() -> None:
    """Seed 4 of a is outlying in a, and the spread of the differences is b's."""
    a, b = [0.774, 0.778, 0.779, 0.777, 0.758], [0.80, 0.70, 0.78, 0.72, 0.75]
    assert stats.outlying(a) == [4]
    text = said(with_ends({"a": a, "b": b}))
    assert "seeds would likely tell a from b (" in text
    assert APART not in text


def test_differences_apart_of_which_no_arms_seed_is_are_no_hindrance() -> None:
    a, b = [0.70, 0.72, 0.74, 0.76, 0.78], [0.69, 0.71, 0.73, 0.75, 0.72]
    assert stats.outlying(np.subtract(a, b)) == [4]
    assert stats.outlying(a) == stats.outlying(b) == []
    text = said(with_ends({"a": a, "b": b}))
    assert "seeds would likely tell a from b (" in text
    assert APART not in text


def test_several_seeds_and_arms_that_left() -> None:
    steady = [0.80, 0.79, 0.81, 0.80, 0.795, 0.805, 0.80, 0.79]
    two = [0.77, 0.76, 0.775, 0.765, 0.77, 0.76, 0.1, 0.12]
    text = said(with_ends({"steady": steady, "two": two}))
    assert "2 seeds of two lie apart from the others, so no number" in text
    one = [0.2, *steady[1:]]
    both = said(with_ends({"one": one, "two": two}))
    assert "One seed of one and 2 seeds of two lie apart from the others of their arm, so no" in both


def test_of_the_other_pairs_a_number_is_forecast_still() -> None:
    made = with_ends(
        {
            "a": [0.80, 0.78, 0.81, 0.79, 0.80],
            "b": [0.79, 0.76, 0.80, 0.80, 0.78],
            "c": [0.79, 0.80, 0.78, 0.795, 0.1],
        }
    )
    text = said(made)
    assert (
        "One seed of c lies apart from the others, so no number of seeds is forecast to tell a from c. Look first"
        in text
    )
    assert "may settle more than seeds). About " in text
    assert "seeds would likely tell a from b (" in text


def test_nor_is_any_forecast_of_one_arm_with_such_a_seed() -> None:
    text = said(with_ends({"ppo": [0.60, 0.61, 0.59, 0.605, 0.1]}))
    assert text.endswith("a smaller learning rate may settle more than seeds).")
    assert "One seed of ppo lies apart from the others, so no number of seeds is forecast. Look" in text


# What is asked for again, or not at all ----------------------------------------------------------------


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
        "a has the highest mean judge reward, 0.900; nothing is claimed of a's difference from b (+0.500)"
        in constant
    )
    assert "more than 100 seeds" not in constant


def test_two_seeds_are_too_few_to_forecast() -> None:
    text = said(with_ends({"ppo": [0.52, 0.6], "dpo": [0.7, 0.71]}))
    assert "would likely" not in text
    assert text.endswith("begin with 5 seeds: rlhf-compare --resume reports/x --seeds 5")
