from __future__ import annotations

import math

import numpy as np
import pytest

from eval.report.numbers.readings import Path, at_cost, at_kl, before_first

NAN = math.nan


@pytest.mark.parametrize(("cost", "value"), [(10, 0), (15, 0.5), (30, 1.5), (40, 2), (9, NAN), (41, NAN)])
def test_reading_at_a_cost(cost: float, value: float) -> None:
    read = at_cost(np.array([10.0, 20.0, 40.0]), np.array([0.0, 1.0, 2.0]), cost)
    assert read == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize(
    ("kl", "value"),
    [
        (0.25, 0.25),  # passed once, on the way out
        (2.25, 5.25),  # passed on the way out (0.75), back (3) and out again: the last
        (9.0, 6.0),
        (9.5, NAN),  # never reached
    ],
)
def test_a_path_that_turns_back_is_read_at_its_last_passage(kl: float, value: float) -> None:
    read = at_kl(np.array([0.0, 4.0, 1.0, 9.0]), np.array([0.0, 1.0, 5.0, 6.0]), kl)
    assert read == pytest.approx(value, nan_ok=True)


def test_standing_still_at_a_kl_reads_the_latest() -> None:
    assert at_kl(np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.3, 0.4]), 1.0) == 0.4


def test_an_estimate_of_kl_below_zero_counts_as_none() -> None:
    assert at_kl(np.array([-1e-6, 4.0]), np.array([0.4, 0.8]), 1.0) == pytest.approx(0.6)


def test_before_the_first_evaluation_is_where_no_later_one_came_so_near() -> None:
    path = Path(np.array([0.0, 3.0, 2.0]), np.array([0.4, 0.5, 0.6]), np.array([0.0, 1.0, 2.0]))
    assert [before_first(path, kl) for kl in (0.5, 1.9, 2.0, 2.5)] == [True, True, False, False]


def test_the_share_of_training_is_of_what_the_run_spent_in_the_end() -> None:
    """What it began with aside: the first run of DPO begins with the seconds of its reference's pass."""
    points_N = np.array([0.0, 1.0, 2.0])
    assert Path(points_N, points_N, np.array([2.0, 3.0, 6.0])).trained_N == pytest.approx([0.0, 0.25, 1.0])
    assert np.isnan(Path(points_N, points_N, np.full(3, NAN)).trained_N).all()
    assert np.isnan(Path(points_N, points_N, np.zeros(3)).trained_N).all()


# Between the evaluations at √KL = p and q; `e` = (d − p)·(q − d), the drop of d² below its chord.
BRACKETS = [(0.7, 1.4, 1.1), (1.0, 3.0, 2.0), (0.5, 3.5, 1.2)]


@pytest.mark.parametrize(("p", "q", "d"), BRACKETS)
def test_a_reward_that_goes_with_the_root_is_read_exactly(p: float, q: float, d: float) -> None:
    """And along a line in KL too low by e/(p + q); one that goes with KL is exact there, and by the root too high by e."""
    e = (d - p) * (q - d)
    kls_N, roots_N = np.array([0.0, p**2, q**2]), np.array([0.0, p, q])
    assert at_kl(kls_N, roots_N, d**2) == pytest.approx(d)
    assert at_kl(kls_N, roots_N, d**2, power=1.0) == pytest.approx(d - e / (p + q))
    assert at_kl(kls_N, kls_N, d**2, power=1.0) == pytest.approx(d**2)
    assert at_kl(kls_N, kls_N, d**2) == pytest.approx(d**2 + e)


@pytest.mark.parametrize(("p", "q", "d"), BRACKETS)
@pytest.mark.parametrize("beta", [0.05, 0.2])
def test_of_rewards_that_overoptimize_the_root_misses_less(p: float, q: float, d: float, beta: float) -> None:
    """d·(α − β·d) and d·(α − β·ln d), Gao et al. 2023, with α = 1, both from below. The first is missed by β·e, and along
    a line in KL by α·e/(p + q): less only where (p + q)/2 lies beyond its peak at α/2β, here 10 and 2.5."""

    def missed(curve_N: np.ndarray, power: float) -> float:
        (_, _, truth) = curve_N
        return float(at_kl(np.array([p**2, q**2]), curve_N[:2], d**2, power) - truth)

    d_N = np.array([p, q, d])
    best_of_n, learned = d_N * (1 - beta * d_N), d_N * (1 - beta * np.log(d_N))
    e = (d - p) * (q - d)
    assert missed(best_of_n, 0.5) == pytest.approx(-beta * e)
    assert missed(best_of_n, 1.0) == pytest.approx(-e / (p + q))
    for curve_N in (best_of_n, learned):
        assert missed(curve_N, 1.0) < missed(curve_N, 0.5) < 0
