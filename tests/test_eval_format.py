"""Numbers as the report and the terminal write them: as many digits as tell them apart."""

from __future__ import annotations

import math

import pytest

from eval import format as fmt
from eval.stats import Estimate


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
        (999_999.9, 1, "999,999.9"),
        (1e6, 3, "1,000,000"),
        (-2_012_750.4, 3, "−2,012,750"),
        (-9.999e12, 3, "−1.00×10¹³"),
        (2.814e250, 3, "2.81×10²⁵⁰"),
        (1.797e308, 0, "1.80×10³⁰⁸"),
    ],
)
def test_numbers(value: float, decimals: int, text: str) -> None:
    assert fmt.number(value, decimals) == text


@pytest.mark.parametrize(
    ("values", "decimals"),
    [
        ([0.79, 0.1], 3),
        ([15.6], 2),
        ([123.0], 1),
        ([4e4], 0),
        ([0.004], 5),
        ([8.6, 5e15, math.inf, math.nan], 3),
        ([5e15], 3),
        ([2e6, 2.3e6], 0),
        ([0.5, 2.3e6], 3),
    ],
)
def test_decimals_follow_the_largest(values: list[float], decimals: int) -> None:
    assert fmt.decimals_for(values) == decimals


def test_a_width_is_not_rounded_to_nothing_for_what_another_arm_came_to() -> None:
    estimates = [Estimate(2168, -3793, 8129, 5), Estimate(13.94, 13.60, 14.28, 5), Estimate(9.4, 9.4, 9.4, 5)]
    assert fmt.column(estimates, "per token") == [("2,168", "± 5,961"), ("13.9", "± 0.3"), ("9", "± 0")]
    base = Estimate(8.642, math.nan, math.nan, 1)  # which the others are compared with
    assert fmt.column([base, *estimates], "per token")[0] == ("8.6", "")


def test_rewards_of_millions_keep_the_digits_that_tell_them_apart() -> None:
    made = [Estimate(2_300_500, 2_299_258, 2_301_742, 3), Estimate(2_304_000, math.nan, math.nan, 1)]
    assert fmt.column(made, "reward") == [("2,300,500", "± 1,242"), ("2,304,000", "")]
    assert fmt.with_interval(made[0], 3) == ("2,300,500", "[2,299,258, 2,301,742]")
    almost = Estimate(0.1, 0.1 - 1e-10, 0.1 + 1e-10, 3)  # as good as none
    assert fmt.column([almost], "reward") == [("0.100", "± 0.000")]


def test_counts_are_in_full_until_ten_thousand() -> None:
    one = [Estimate(value, math.nan, math.nan, 1) for value in (0, 999.7, 2048, 9_999, 10_000, 12.4)]
    assert [mean for mean, _ in fmt.column(one, "pairs")] == ["0", "1,000", "2,048", "9,999", "10k", "12.4"]
    assert fmt.column([Estimate(4651.2, 4607.7, 4694.7, 5)], "completions") == [("4,651", "± 44")]
    assert fmt.column([Estimate(13_400, 8_960, 17_840, 5)], "completions") == [("13.4k", "± 4.44k")]
    assert fmt.column([Estimate(512, -988, 2012, 5)], "pairs") == [("512", "± 1,500")]
    assert fmt.column([Estimate(3.5, 3.0, 4.0, 5)], "updates") == [("3.5", "± 0.5")]


def test_a_budget_is_written_as_the_tables_write_costs() -> None:
    assert fmt.in_powers("5e11 FLOPs") == "5×10¹¹ FLOPs"
    assert fmt.in_powers("1.2e15 FLOPs") == "1.2×10¹⁵ FLOPs"
    assert fmt.in_powers("20,000 completions") == "20,000 completions"
    assert fmt.in_powers(f"1e{'9' * 5000}") == f"1e{'9' * 5000}"


def test_numbers_that_differ_are_written_differently() -> None:
    assert fmt.distinct([0.5, 200.0, 1200.0]) == ["0.5", "200", "1.2k"]
    assert fmt.distinct([5.9155, 5.916, 5.9165]) == ["5.9155", "5.916", "5.9165"]
    assert fmt.distinct([0.69310, 0.69315, 0.0]) == ["0.6931", "0.69315", "0"]
    assert fmt.distinct([1.0000e-5, 1.0004e-5]) == ["1×10⁻⁵", "1.0004×10⁻⁵"]
    assert fmt.distinct([2.0, 2.0]) == ["2", "2"]


def test_means_with_their_intervals_or_half_widths() -> None:
    known, alone = Estimate(0.3, 0.25, 0.35, 3), Estimate(0.3, math.nan, math.nan, 1)
    assert fmt.with_interval(known, 2, signed=True) == ("+0.30", "[0.25, 0.35]")
    assert fmt.with_width(known, 3) == ("0.300", "± 0.050")
    assert fmt.with_interval(alone, 1) == fmt.with_width(alone, 1) == ("0.3", "")
    assert fmt.with_interval(known.negated, 2) == ("−0.30", "[−0.35, −0.25]")
    assert known.negated.n == 3


def test_several_numbers_are_the_first_to_the_last_or_one() -> None:
    assert fmt.span(["1", "2", "3"]) == "1 to 3"
    assert fmt.span(["0.10", "0.10"]) == fmt.span(["0.10"]) == "0.10"
    assert fmt.span([]) == ""


@pytest.mark.parametrize(
    ("rewards", "decimals"),
    [([0.7, 0.45], 3), ([150.0, -3.0], 3), ([0.05, 0.01], 4), ([2e-5, -3e-5], 7), ([math.nan], 3), ([], 3)],
)
def test_small_rewards_have_as_many_decimals_as_show_them(rewards: list[float], decimals: int) -> None:
    assert fmt.reward_decimals(rewards) == decimals


def test_flops_and_their_half_width_share_a_power() -> None:
    assert fmt.column([Estimate(2.1e13, 2.0e13, 2.2e13, 3)], "FLOPs") == [("2.10×10¹³", "± 0.10×10¹³")]


def test_a_huge_number_is_in_powers_and_leaves_the_others_their_decimals() -> None:
    """The perplexity of held-out text where one arm diverged."""
    estimates = [
        Estimate(8.6, math.nan, math.nan, 1),
        Estimate(13.2, 8.2, 18.2, 3),
        Estimate(4.99e15, -1.49e16, 2.488e16, 3),
        Estimate(2e6, -9e14, 9e14, 3),
        Estimate(20.0, -3e7, 3e7, 3),
    ]
    assert fmt.column(estimates, "per token") == [
        ("8.60", ""),
        ("13.20", "± 5.00"),
        ("4.99×10¹⁵", "± 19.89×10¹⁵"),
        ("2,000,000", "± 9.00×10¹⁴"),
        ("20.00", "± 30,000,000"),
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (245, "4 min 05 s"), (7800, "2 h 10 min"), (math.nan, "–")]
)
def test_durations(seconds: float, text: str) -> None:
    assert fmt.duration(seconds) == text


def test_listing() -> None:
    assert fmt.listing(["a"]) == "a"
    assert fmt.listing(["a", "b", "c"]) == "a, b and c"
    assert fmt.listing(list("abcdef"), 3) == "a, b, c and 3 more"


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, "0%"), (0.004, "less than 1%"), (0.006, "1%"), (0.104, "10%"), (1.0, "100%")]
)
def test_shares(share: float, shown: str) -> None:
    assert fmt.percent(share) == shown
