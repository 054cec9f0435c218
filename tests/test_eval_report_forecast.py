"""How many more seeds the verdict asks for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from report_words import said
from report_world import with_ends

from eval import stats


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
