"""Gao's fits on paths that were made with them, and where they say that the judge peaks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import curve_fit, minimize_scalar

from eval.frontier.overoptimization import Fit, fit

KL = np.array([0.3, 1.0, 2.5, 6.0, 12.0])


def path(form: str, alpha: float, beta: float, kl_N: np.ndarray = KL) -> np.ndarray:
    d = np.sqrt(kl_N)
    return d * (alpha - beta * (np.log(d) if form == "rl" else d))


def fitted(form: str, kl_N: np.ndarray, gain_N: np.ndarray) -> Fit:
    found = fit(kl_N, gain_N, form)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("form", ["rl", "best_of_n"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (0.5, -0.1), (-0.2, 0.4)])
def test_a_path_made_by_the_law_gives_it_back(form: str, alpha: float, beta: float) -> None:
    found = fitted(form, KL, path(form, alpha, beta))
    assert (found.alpha, found.beta, found.r_squared) == pytest.approx((alpha, beta, 1.0))
    np.testing.assert_allclose(found.gain([4.0, 9.0]), path(form, alpha, beta, np.array([4.0, 9.0])))


@pytest.mark.parametrize("form", ["rl", "best_of_n"])
def test_a_noisy_path_is_fitted_by_least_squares(form: str) -> None:
    """As scipy's optimizer finds it; R² is the explained share of the variance."""
    gain_N = path(form, 0.8, 0.3) + 0.05 * np.random.default_rng(0).normal(size=len(KL))
    best, _ = curve_fit(lambda kl, alpha, beta: path(form, alpha, beta, kl), KL, gain_N)
    found = fitted(form, KL, gain_N)
    assert (found.alpha, found.beta) == pytest.approx(tuple(best), rel=1e-5)
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
    ("form", "alpha", "beta", "peak"),
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
def test_whether_the_peak_was_seen(form: str, alpha: float, beta: float, peak: str) -> None:
    found = fitted(form, KL, path(form, alpha, beta))
    assert found.peak == peak
    assert math.isnan(found.peak_kl) == (peak == "none")


def test_a_peak_too_far_for_a_float_is_beyond() -> None:
    found = Fit("rl", alpha=1.0, beta=1e-4, r_squared=1.0, nearest=0.3, furthest=12.0)
    assert (found.peak_kl, found.peak) == (math.inf, "beyond")


def test_the_base_and_what_is_not_known_are_left_out() -> None:
    kl_N = np.concatenate([[0.0, -0.01, math.nan, 3.0], KL])
    gain_N = np.concatenate([[0.0, 0.01, 0.3, math.nan], path("rl", 0.8, 0.3)])
    found = fitted("rl", kl_N, gain_N)
    assert (found.alpha, found.beta) == pytest.approx((0.8, 0.3))


@pytest.mark.parametrize("kl_N", [[], [0.0, 1.0, 2.0], [1.0, 1.0, 2.0, 2.0], [1.0, 2.0, math.inf]])
def test_two_distances_are_too_few(kl_N: list[float]) -> None:
    assert fit(kl_N, [0.5] * len(kl_N)) is None


def test_a_flat_path_has_no_variance_to_explain() -> None:
    found = fitted("rl", KL, np.zeros(len(KL)))
    assert math.isnan(found.r_squared)
    assert found.peak == "none"


def test_a_path_has_one_gain_for_each_kl() -> None:
    with pytest.raises(ValueError, match="one gain for each KL"):
        fit(KL, KL[:2])
