"""The caveat on length: gains that the base's own relation of judge and length would explain, and those it would not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_cases import told_by
from report_world import World, world

from eval.report.caveats import validity
from eval.report.numbers.frames import evaluations


def by_length(slope: float, quality: float, longer: float, prompts: int = 64) -> World:
    """Responses scored 0.4 + slope·(length − 12) + noise; the arm's are `longer` by so many tokens and better besides."""
    generator = np.random.default_rng(1)
    topics = 0.1 * generator.normal(size=prompts)
    rows = []
    for arm, seeds in (("base", 1), ("ppo", 3)):
        for seed in range(seeds):
            moved, gained = (longer, quality) if arm == "ppo" else (0.0, 0.0)
            lengths = generator.normal(12 + moved, 3, prompts).round()
            noise = 0.1 * generator.normal(size=prompts)
            judged = 0.4 + slope * (lengths - 12) + gained + topics + noise
            rows += [
                {"arm": arm, "seed": seed, "prompt_id": i, "length": lengths[i], "judge": judged[i]}
                for i in range(prompts)
            ]
    return dataclasses.replace(world(Path("x"), {"ppo": "ppo"}), samples=pd.DataFrame(rows))


def test_a_gain_that_length_explains() -> None:
    text = told_by(validity.length, by_length(slope=0.03, quality=0.0, longer=5))
    assert "ppo's responses grew from 11.9 to 17.0 tokens" in text
    assert "a token, which alone would account for" in text
    shorter = told_by(validity.length, by_length(slope=-0.03, quality=0.02, longer=-5))
    assert "ppo's responses shrank from" in shorter
    assert "gives −0.0" in shorter


@pytest.mark.parametrize(
    ("slope", "quality", "longer"),
    [
        (0.0, 0.2, 5),  # the judge is blind to length
        (0.03, 0.5, 5),  # the gain is far larger
        (0.03, 0.2, 0.5),  # the length hardly changed
        (0.03, 0.0, -5),  # shorter and worse: no gain to explain
        (-0.03, 0.4, 5),  # longer and better although the judge prefers short ones
    ],
)
def test_a_gain_that_length_does_not_explain(slope: float, quality: float, longer: float) -> None:
    assert told_by(validity.length, by_length(slope, quality, longer)) == ""


def test_a_small_slope_is_shown_with_its_digits() -> None:
    """A judge in [0, 1] over responses of 300 tokens: less than a thousandth a token."""
    made = by_length(slope=0.01, quality=0.0, longer=5, prompts=512)
    samples = made.samples.assign(length=25 * made.samples["length"])
    base = samples[samples["arm"] == "base"]
    slope = float(np.polyfit(base["length"], base["judge"], 1)[0])
    assert round(slope, 3) == 0
    text = told_by(validity.length, dataclasses.replace(made, samples=samples))
    assert f"gives +{slope:.6f} a token, which alone would account for" in text


def test_responses_to_one_prompt_are_not_independent() -> None:
    """Length and judge are unrelated, four fifths of the variance of each between prompts: a slope is called real in one
    draw of twenty, half of them upwards."""
    generator = np.random.default_rng(0)
    draws, prompts, responses = 60, 32, 8
    made = world(Path("x"), {"ppo": "ppo"})
    view = evaluations(made)
    prompt_ids = np.repeat(np.arange(prompts), responses)
    fired = 0
    for _ in range(draws):
        lengths, judged = (
            np.sqrt(0.8) * np.repeat(generator.normal(size=prompts), responses)
            + np.sqrt(0.2) * generator.normal(size=prompts * responses)
            for _ in range(2)
        )
        base = pd.DataFrame(
            {"arm": "base", "prompt_id": prompt_ids, "length": 20 + 3 * lengths, "judge": judged}
        )
        better = base.assign(arm="ppo", length=base["length"] + 10, judge=judged + 1e-3)
        found = dataclasses.replace(made, samples=pd.concat([base, better], ignore_index=True))
        fired += bool(validity.length(found, view))
    assert fired <= 5


def test_a_slope_that_stands_on_one_prompt_is_none() -> None:
    made = by_length(slope=0.03, quality=0.0, longer=5)
    samples = made.samples.copy()
    base = samples["arm"] == "base"
    samples.loc[base, "length"] = 12.0
    samples.loc[base & (samples["prompt_id"] == 0), ["length", "judge"]] = 9.0, 0.0
    assert told_by(validity.length, dataclasses.replace(made, samples=samples)) == ""


def test_too_few_prompts_say_nothing_of_length() -> None:
    assert told_by(validity.length, by_length(0.03, 0.0, 5, prompts=15)) == ""
