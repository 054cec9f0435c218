"""What the report's numbers are made of: ends, means over seeds, what the base is, win rates."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from report_world import ARMS, POINTS, with_ends, world

from eval.report.numbers import tables
from eval.report.numbers.frames import evaluations
from eval.stats import mean_interval

JUDGE = "reward/judge"


def test_summary_is_the_mean_of_the_last_evaluations() -> None:
    made = with_ends({"reinforce": [0.6, 0.8, 0.7], "ppo": [0.5, 0.6, 0.4]})
    view = evaluations(made)
    expected = mean_interval([0.6, 0.8, 0.7])
    found = tables.at_end(view, "reinforce", JUDGE)
    assert (found.mean, found.low, found.high, found.n) == pytest.approx(
        (0.7, expected.low, expected.high, 3)
    )
    base = tables.at_end(view, "base", JUDGE)
    assert (base.mean, base.n) == (0.5, 1)
    assert math.isnan(base.low)


def test_summary_text_is_ready_for_the_terminal() -> None:
    text = tables.summary_text(with_ends({"reinforce": [0.6, 0.8, 0.7]}), (JUDGE, "kl/sequence"))
    assert list(text.index) == ["base", "reinforce"]
    assert text.loc["reinforce", "judge reward"] == "0.700 ± 0.248"
    assert text.loc["base", "judge reward"] == "0.500"
    assert "KL to reference [nats]" in text.columns
    huge = tables.summary_text(with_ends({"ppo": [1e250], "dpo": [0.7]}), (JUDGE,))["judge reward"]
    assert list(huge) == ["0.500", "1.00×10²⁵⁰", "0.700"]


def test_the_base_is_scored_by_every_seeds_reward_model() -> None:
    """Its own row holds the first seed's scores alone, beside an arm's mean over all models."""
    made = world(Path("x"))
    results = made.results.copy()
    proxy = (results["metric"] == "reward/proxy") & (results["point"] == 0)
    results.loc[proxy, "value"] = results.loc[proxy, "seed"].map({0: 0.1, 1: 0.2, 2: 0.6})
    shared = dataclasses.replace(made, results=results)
    own = dataclasses.replace(shared, settings=made.settings | {"replicate_data": True})
    assert evaluations(shared).base["reward/proxy"] == 0.1
    assert evaluations(own).base["reward/proxy"] == pytest.approx(0.3)
    assert evaluations(own).base[JUDGE] == evaluations(shared).base[JUDGE]
    alike = dataclasses.replace(made, settings=own.settings)
    assert evaluations(alike).base == evaluations(made).base


def test_failed_runs_are_in_no_mean() -> None:
    view = evaluations(world(Path("x"), failed=[("ppo", 1)]))
    assert sorted(view.at_end("ppo", JUDGE)) == [0, 2]
    assert sorted(view.at_end("dpo", JUDGE)) == [0, 1, 2]
    assert len(view.ends) == 9  # but they are still shown


def test_win_rates_are_mirrored() -> None:
    view = evaluations(world(Path("x")))
    rates = tables.win_rates(view)
    assert set(rates) == {(a, b) for a in ("base", *ARMS) for b in ("base", *ARMS) if a != b}
    for (a, b), estimate in rates.items():
        assert estimate.mean + rates[b, a].mean == pytest.approx(1)


def test_arms_keep_the_order_of_the_configuration() -> None:
    made = world(Path("x"))
    facts = made.facts | {"arms": dict(reversed(made.facts["arms"].items()))}
    assert list(evaluations(dataclasses.replace(made, facts=facts)).arms) == ["dpo", "ppo", "reinforce"]


def test_missing_axes_lose_no_row() -> None:
    made = world(Path("x"))
    results = made.results.assign(seconds=math.nan, flops=math.nan)
    assert len(evaluations(dataclasses.replace(made, results=results)).paths) == 9 * (POINTS + 1)


def test_base_falls_back_to_the_evaluation_before_training() -> None:
    made = world(Path("x"))
    view = evaluations(dataclasses.replace(made, results=made.results[made.results["arm"] != "base"]))
    assert view.base[JUDGE] == pytest.approx(0.44)


def test_infinite_values_are_shown_not_hidden() -> None:
    made = with_ends({"reinforce": [0.7, math.inf, 0.6]})
    found = tables.at_end(evaluations(made), "reinforce", JUDGE)
    assert found.mean == math.inf
    assert math.isnan(found.low)
    assert tables.summary_text(made, (JUDGE,)).loc["reinforce", "judge reward"] == "∞"
