from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest
from report_world import ARMS, POINTS, World, world

from eval.report import format as fmt
from eval.report import glance, tables
from eval.report.frames import evaluations
from eval.stats import Estimate, mean_interval, paired_difference

JUDGE = "reward/judge"


def with_ends(scores: dict[str, list[float]], base: float = 0.5) -> World:
    """A comparison whose judge rewards at the end are `scores` (arm → one a seed)."""
    made = world(Path("reports/x"), {arm: arm for arm in scores}, max(map(len, scores.values())))
    results = made.results.copy()
    judged = (results["metric"] == JUDGE) & (results["point"] == POINTS)
    results.loc[judged, "value"] = [
        scores[arm][seed] if seed < len(scores[arm]) else math.nan
        for arm, seed in results.loc[judged, ["arm", "seed"]].itertuples(index=False)
    ]
    results.loc[(results["metric"] == JUDGE) & (results["arm"] == "base"), "value"] = base
    return dataclasses.replace(made, results=results)


def said(made: World) -> str:
    return " ".join(glance.sentences(made, evaluations(made)))


def test_summary_is_the_mean_of_the_last_evaluations() -> None:
    made = with_ends({"reinforce": [0.6, 0.8, 0.7], "ppo": [0.5, 0.6, 0.4]})
    table = tables.summary_table(made).set_index(["arm", "metric"])
    row = table.loc[("reinforce", JUDGE)]
    expected = mean_interval([0.6, 0.8, 0.7])
    assert (row["mean"], row["low"], row["high"], row["n"]) == pytest.approx(
        (0.7, expected.low, expected.high, 3)
    )
    base = table.loc[("base", JUDGE)]
    assert (base["mean"], base["n"]) == (0.5, 1)
    assert math.isnan(base["low"])


def test_summary_text_is_ready_for_the_terminal() -> None:
    text = tables.summary_text(with_ends({"reinforce": [0.6, 0.8, 0.7]}))
    assert list(text.index) == ["base", "reinforce"]
    assert text.loc["reinforce", "judge reward"] == "0.700 ± 0.248"
    assert text.loc["base", "judge reward"] == "0.500"
    assert "KL to reference [nats]" in text.columns


def test_failed_runs_are_in_no_mean() -> None:
    view = evaluations(world(Path("x"), failed=[("ppo", 1)]))
    assert sorted(view.at_end("ppo", JUDGE)) == [0, 2]
    assert sorted(view.at_end("dpo", JUDGE)) == [0, 1, 2]
    assert len(view.ends) == 9  # but they are still shown


def test_a_failed_runs_partner_is_left_out_of_the_pairs() -> None:
    view = evaluations(world(Path("x"), failed=[("ppo", 1)]))
    counts = {frozenset((pair.first, pair.second)): pair.difference.n for pair in tables.pairs(view)}
    assert counts == {
        frozenset(("ppo", "reinforce")): 2,
        frozenset(("ppo", "dpo")): 2,
        frozenset(("reinforce", "dpo")): 3,
    }


def test_pairs_are_paired_by_seed_and_corrected() -> None:
    scores = {"reinforce": [0.60, 0.70, 0.80], "ppo": [0.55, 0.66, 0.74], "dpo": [0.3, 0.5, 0.35]}
    found = {(p.first, p.second): p for p in tables.pairs(evaluations(with_ends(scores)))}
    raw = [
        paired_difference(scores["reinforce"], scores["ppo"]).p_value,
        paired_difference(scores["reinforce"], scores["dpo"]).p_value,
        paired_difference(scores["ppo"], scores["dpo"]).p_value,
    ]
    assert raw[0] == min(raw)
    assert found["reinforce", "ppo"].p_holm == pytest.approx(3 * raw[0])
    assert found["reinforce", "ppo"].difference.mean == pytest.approx(0.05)


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


def test_a_policy_without_a_run_counts_as_finished() -> None:
    made = world(Path("x"))
    view = evaluations(dataclasses.replace(made, runs=made.runs[made.runs["arm"] != "dpo"]))
    assert len(view.at_end("dpo", JUDGE)) == 3


def test_missing_axes_lose_no_row() -> None:
    made = world(Path("x"))
    results = made.results.assign(seconds=math.nan, flops=math.nan)
    assert len(evaluations(dataclasses.replace(made, results=results)).paths) == 9 * (POINTS + 1)


def test_base_falls_back_to_the_evaluation_before_training() -> None:
    made = world(Path("x"))
    view = evaluations(dataclasses.replace(made, results=made.results[made.results["arm"] != "base"]))
    assert view.base[JUDGE] == pytest.approx(0.44)


def test_one_seed_claims_nothing() -> None:
    text = said(with_ends({"reinforce": [0.9], "ppo": [0.2]}))
    assert "nothing is claimed" in text
    assert not any(word in text for word in ("ahead", "above", "below", "told apart"))


def test_a_clear_difference_is_said() -> None:
    text = said(
        with_ends({"reinforce": [0.90, 0.91, 0.92, 0.90, 0.91], "ppo": [0.60, 0.62, 0.61, 0.61, 0.6]})
    )
    assert "Both arms end above the untouched base (judge reward 0.500)" in text
    assert "reinforce has the highest mean, 0.908, and is ahead of ppo (by +0.300" in text
    assert "cannot be told apart" not in text
    assert "intervals are wide" not in text


def test_an_unclear_difference_is_said_to_be_unclear() -> None:
    text = said(with_ends({"reinforce": [0.9, 0.4, 0.6], "ppo": [0.6, 0.7, 0.5]}, base=0.1))
    assert "cannot be told apart from ppo with 3 seeds" in text
    assert "ahead" not in text
    assert "With 3 seeds the intervals are wide" in text


def test_falling_below_the_base_is_said() -> None:
    text = said(with_ends({"reinforce": [0.30, 0.31, 0.32], "ppo": [0.9, 0.91, 0.92]}))
    assert "1 of 2 arms ends above the untouched base" in text
    assert "1 ends below it" in text


def test_identical_seeds_are_called_out() -> None:
    made = with_ends({"reinforce": [0.7, 0.7, 0.7], "ppo": [0.6, 0.62, 0.61]})
    notes = glance.caveats(made, evaluations(made))
    assert any("no independent repetitions" in note and "reinforce" in note for note in notes)


def test_failed_and_missing_runs_are_said() -> None:
    made = world(Path("x"), failed=[("ppo", 1)])
    runs = made.runs.copy()
    runs.loc[(runs["arm"] == "dpo") & (runs["seed"] == 2), "status"] = "missing"
    text = said(dataclasses.replace(made, runs=runs))
    assert "1 of 9 runs failed (ppo seed 1)" in text
    assert "1 of 9 runs are still missing" in text


def test_nothing_finished() -> None:
    text = said(world(Path("x"), seeds=1, failed=[(arm, 0) for arm in ARMS]))
    assert "nothing to compare yet" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.5, "0.5"), (999, "999"), (999.9, "1k"), (1234, "1.23k"), (12_800, "12.8k"), (3e6, "3M"),
     (2.1e13, "2.10×10¹³"), (9.999e12, "1.00×10¹³"), (-1500, "−1.5k"), (3e-4, "3×10⁻⁴"), (math.nan, "–")],
)  # fmt: skip
def test_compact_numbers(value: float, text: str) -> None:
    assert fmt.compact(value) == text


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.7871, 3, "0.787"),
        (-0.2, 2, "−0.20"),
        (-0.0001, 2, "0.00"),
        (12345.6, 0, "12,346"),
        (math.inf, 2, "∞"),
    ],
)
def test_numbers(value: float, decimals: int, text: str) -> None:
    assert fmt.number(value, decimals) == text


@pytest.mark.parametrize(
    ("values", "decimals"), [([0.79, 0.1], 3), ([15.6], 2), ([123.0], 1), ([4e4], 0), ([0.004], 5)]
)
def test_decimals_follow_the_largest(values: list[float], decimals: int) -> None:
    assert fmt.decimals_for(values) == decimals


def test_flops_and_their_half_width_share_a_power() -> None:
    assert fmt.column([Estimate(2.1e13, 2.0e13, 2.2e13, 3)], "FLOPs") == [("2.10×10¹³", "± 0.10×10¹³")]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (245, "4 min 05 s"), (7800, "2 h 10 min"), (math.nan, "–")]
)
def test_durations(seconds: float, text: str) -> None:
    assert fmt.duration(seconds) == text


def test_listing() -> None:
    assert fmt.listing(["a"]) == "a"
    assert fmt.listing(["a", "b", "c"]) == "a, b and c"
    assert fmt.listing(list("abcdef"), 3) == "a, b, c and 3 more"


def test_infinite_values_are_shown_not_hidden() -> None:
    made = with_ends({"reinforce": [0.7, math.inf, 0.6]})
    row = tables.summary_table(made).set_index(["arm", "metric"]).loc[("reinforce", JUDGE)]
    assert row["mean"] == math.inf
    assert math.isnan(row["low"])
    assert isinstance(tables.summary_text(made), pd.DataFrame)
