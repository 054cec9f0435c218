"""Gao's fits on paths that were made with them, and where they say that the judge peaks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gao_paths import KL, path
from scipy.optimize import curve_fit, minimize_scalar

from eval.frontier.overoptimization import Fit, came_back, fit


def fitted(form: str, kl_N: np.ndarray, gain_N: np.ndarray) -> Fit:
    found = fit(kl_N, gain_N, form)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("form", ["rl", "best_of_n"])
@pytest.mark.parametrize(("a", "b"), [(0.8, 0.3), (0.5, -0.1), (-0.2, 0.4)])
def test_a_path_made_by_the_law_gives_it_back(form: str, a: float, b: float) -> None:
    found = fitted(form, KL, path(form, a, b))
    assert (found.a, found.b, found.r_squared) == pytest.approx((a, b, 1.0))
    np.testing.assert_allclose(found.gain([4.0, 9.0]), path(form, a, b, np.array([4.0, 9.0])))


@pytest.mark.parametrize("form", ["rl", "best_of_n"])
def test_a_noisy_path_is_fitted_by_least_squares(form: str) -> None:
    """As scipy's optimizer finds it; R² is the explained share of the variance."""
    gain_N = path(form, 0.8, 0.3) + 0.05 * np.random.default_rng(0).normal(size=len(KL))
    best, _ = curve_fit(lambda kl, a, b: path(form, a, b, kl), KL, gain_N)
    found = fitted(form, KL, gain_N)
    assert (found.a, found.b) == pytest.approx(tuple(best), rel=1e-5)
    left = gain_N - path(form, *best)
    assert found.r_squared == pytest.approx(1 - left.var() / gain_N.var() - left.mean() ** 2 / gain_N.var())
    assert 0.5 < found.r_squared < 1


@pytest.mark.parametrize("form", ["rl", "best_of_n"])
def test_the_peak_is_the_highest_point_of_the_fit(form: str) -> None:
    found = fitted(form, KL, path(form, 0.8, 0.3))
    highest = minimize_scalar(lambda kl: -float(found.gain(kl)), bounds=(1e-3, 300), method="bounded")
    assert found.peak_kl == pytest.approx(highest.x, rel=1e-3)


def test_peaks_by_hand() -> None:
    assert fitted("best_of_n", KL, path("best_of_n", 0.8, 0.2)).peak_kl == pytest.approx(4)  # d = .8/.4
    assert fitted("rl", KL, path("rl", 0.6, 0.3)).peak_kl == pytest.approx(math.e**2)  # d = e^{2 − 1}


@pytest.mark.parametrize(
    ("form", "a", "b", "peak"),
    [
        ("rl", 0.1, 0.3, "before"),  # at 0.26 nats
        ("rl", 0.3, 0.3, "observed"),  # at 1
        ("rl", 0.6, 0.3, "observed"),  # at 7.4
        ("rl", 0.9, 0.3, "beyond"),  # at 54.6
        ("rl", 0.5, -0.1, "none"),
        ("best_of_n", 0.2, 0.2, "before"),  # at 0.25
        ("best_of_n", 0.8, 0.2, "observed"),  # at 4
        ("best_of_n", 0.8, 0.1, "beyond"),  # at 16
        ("best_of_n", 0.8, -0.1, "none"),
        ("best_of_n", -0.8, 0.1, "none"),  # falls from the base on: there is nothing to peak
    ],
)
def test_whether_the_peak_was_seen(form: str, a: float, b: float, peak: str) -> None:
    found = fitted(form, KL, path(form, a, b))
    assert found.peak == peak
    assert math.isnan(found.peak_kl) == (peak == "none")


@pytest.mark.parametrize(
    ("form", "a", "b", "trend"),
    [
        ("rl", 0.9, 0.3, "rising"),  # to a peak at 54.6 nats
        ("rl", 0.5, -0.1, "rising"),
        ("rl", 0.3, 0.3, "falling"),  # from a peak at 1
        ("rl", -0.5, -0.1, "falling"),  # to a lowest point at d = e^4
        ("rl", -0.25, -0.12, "neither"),  # from a lowest point at d = 2.95 on up, and below the base until 8
        ("rl", -0.1, -0.2, "rising"),  # above the base from d = 1.6 on
        ("best_of_n", 0.8, 0.1, "rising"),
        ("best_of_n", 0.8, 0.2, "falling"),
        ("best_of_n", -0.8, 0.1, "falling"),
        ("best_of_n", -0.8, -0.1, "falling"),  # to a lowest point at d = 4
        ("best_of_n", -0.8, -0.2, "neither"),  # at d = 2
        ("best_of_n", -0.6, -0.2, "rising"),  # above the base from d = 3 on
    ],
)
def test_where_the_fit_goes_at_its_end(form: str, a: float, b: float, trend: str) -> None:
    """At d = √12 = 3.46; as a small step along the curve and its height say."""
    found = fitted(form, KL, path(form, a, b))
    before, end = found.gain([12 - 1e-4, 12.0])
    assert found.trend == trend
    assert trend == ("falling" if end < before else "rising" if end > 0 else "neither")


@pytest.mark.parametrize(
    ("kl_N", "back"),
    [
        ([0.0, 1.0, 3.0, 2.6], True),  # below 0.9 of 3
        ([0.0, 1.0, 3.0, 2.8], False),
        ([0.0, 3.0, 1.0, 4.0], False),  # out again
        ([0.0, 1.0, math.inf, math.nan, 2.0], False),  # not known how far it was
        ([0.0], False),
        ([], False),
    ],
)
def test_a_path_that_came_back_ends_well_inside_its_largest_kl(kl_N: list[float], back: bool) -> None:
    assert came_back(kl_N) == back


def test_a_peak_too_far_for_a_float_is_beyond() -> None:
    found = Fit("rl", a=1.0, b=1e-4, r_squared=1.0, nearest=0.3, furthest=12.0)
    assert (found.peak_kl, found.peak, found.trend) == (math.inf, "beyond", "rising")


def test_the_base_and_what_is_not_known_are_left_out() -> None:
    kl_N = np.concatenate([[0.0, -0.01, math.nan, 3.0], KL])
    gain_N = np.concatenate([[0.0, 0.01, 0.3, math.nan], path("rl", 0.8, 0.3)])
    found = fitted("rl", kl_N, gain_N)
    assert (found.a, found.b) == pytest.approx((0.8, 0.3))


@pytest.mark.parametrize("kl_N", [[], [0.0, 1.0, 2.0], [1.0, 1.0, 2.0, 2.0], [1.0, 2.0, math.inf]])
def test_two_distances_are_too_few(kl_N: list[float]) -> None:
    assert fit(kl_N, [0.5] * len(kl_N)) is None


def test_a_flat_path_has_no_variance_to_explain() -> None:
    found = fitted("rl", KL, np.zeros(len(KL)))
    assert math.isnan(found.r_squared)
    assert (found.peak, found.trend) == ("none", "neither")


@pytest.mark.parametrize("gain", [0.15, 0.1 + 0.2, -1 / 3])
def test_a_path_that_does_not_vary_has_a_curve_but_no_peak(gain: float) -> None:
    """The curve has one on it, which is none of the judge's."""
    found = fitted("rl", np.array([0.0004, 0.0008, 0.001]), np.full(3, gain))
    assert math.isnan(found.r_squared)
    assert not found.follows


def test_a_path_has_one_gain_for_each_kl() -> None:
    with pytest.raises(ValueError, match="one gain for each KL"):
        fit(KL, KL[:2])
