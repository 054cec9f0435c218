"""The false claims of docs/statistics.md at matched KL and from few prompts: nothing differs there but what is said to,
and the page is recomputed without the code, where a formula exists."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pages import measured, shares
from scipy.stats import binom, t

from benchmarks.calibration.stored import METRICS
from benchmarks.calibration.trials import claimed
from benchmarks.coverage import intervals, matched, prompts
from benchmarks.coverage.__main__ import TABLES, table
from benchmarks.coverage.matched import CASES, Case
from eval.report.inputs import JUDGE, KL
from eval.report.numbers.standings import matched_kl

FINE_K = np.linspace(0, 1, 1001)
SPEEDS = [case for case in CASES if case.name.startswith("speed")]
OVERSHOOTS = [case for case in CASES if case.name.startswith("overshoot")]


def false_by_seeds(n: int, shared: float, own: float) -> float:
    """How often a t-test of n seeds claims a difference whose error has the variances `shared`, the same for all
    seeds, and `own` of each: its t is √(1 + n·shared/own) times Student's."""
    return float(2 * t.sf(t.ppf(0.975, n - 1) / math.sqrt(1 + n * shared / own), n - 1))


def likely(share: float, expected: float, trials: int) -> bool:
    """Whether a binomial shows such a percentage, give or take its rounding, 999 times of 1,000."""
    low, high = binom.interval(0.999, trials, expected)
    return bool(low - 0.001 * trials <= share / 100 * trials <= high + 0.001 * trials)


# --- matched KL --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SPEEDS, ids=lambda case: f"{case.name}, {case.evaluations}")
def test_arms_of_unlike_speed_have_one_reward_at_one_kl(case: Case) -> None:
    slow, fast = ((spent(FINE_K), case.gain(spent(FINE_K), FINE_K)) for spent in case.spent)
    assert slow[0][-1] == pytest.approx(1.2)
    assert fast[0][-1] == pytest.approx(12)
    np.testing.assert_allclose(np.interp(slow[0], *fast), slow[1], atol=2e-3)


@pytest.mark.parametrize("case", OVERSHOOTS, ids=lambda case: case.name)
def test_arms_that_overshoot_end_at_one_kl_with_one_reward(case: Case) -> None:
    for spent, peak in zip(case.spent, (3.6, 2.6 if "2.6" in case.name else 2.1), strict=True):
        kl_K = spent(FINE_K)
        assert kl_K[0] == 0
        assert kl_K.max() == pytest.approx(peak, abs=0.1)
        assert kl_K[-1] == pytest.approx(2.1, abs=0.01)
        assert case.gain(kl_K, FINE_K)[-1] == pytest.approx(0.24 * math.sqrt(2.1), abs=0.01)


def test_the_peak_of_the_bent_reward_is_where_it_is_said_to_be() -> None:
    kl_X = np.linspace(0, 12, 10_001)
    gain_X = matched._peaked(kl_X, kl_X)
    assert gain_X[0] == 0
    assert kl_X[gain_X.argmax()] == pytest.approx(3.8, abs=0.05)


def test_runs_start_at_the_base_and_are_evaluated_when_the_product_would() -> None:
    first, second = matched._compared(SPEEDS[0], 4, np.random.default_rng(0))
    assert first.shape == second.shape == (4, 6, len(METRICS))
    assert np.ptp(first[:, 0], axis=0).max() == 0
    kl_NK = second[..., METRICS.index(KL)]
    np.testing.assert_allclose(kl_NK / kl_NK[:, -1:], np.tile((np.arange(6) / 5) ** 2, (4, 1)))


def test_plain_readings_are_at_the_largest_kl_and_at_the_first_end_along_two_kinds_of_lines() -> None:
    """`out` overshoots to KL 4 and ends at 1, `stays` ends at 4. They differ at 4, by 0.1; at 1, where both have 0.5
    along √KL, a chord straight in KL gives `stays` 0.25."""
    out, stays = [(0.0, 0.0), (4.0, 0.9), (1.0, 0.5)], [(0.0, 0.0), (4.0, 1.0), (4.0, 1.0)]

    def readings(out: list[tuple[float, float]], stays: list[tuple[float, float]]) -> list[bool]:
        generator = np.random.default_rng(0)
        runs = []
        for points in (out, stays):
            kl_K, judge_K = np.array(points).T
            judge_NK = judge_K + 0.001 * generator.normal(size=(3, len(points)))
            columns = {JUDGE: judge_NK, KL: np.tile(kl_K, (3, 1))}
            runs.append(np.stack([columns.get(metric, columns[KL]) for metric in METRICS], axis=-1))
        return matched._plain_claims(*runs)

    assert readings(out, stays) == [True, True, False]
    assert readings(out, [(0.0, 0.0), (4.0, 0.9), (4.0, 0.9)]) == [False, True, True]
    assert readings([*out[:2], (1.0, 0.25)], stays) == [True, False, True]


def test_the_report_claims_what_both_lines_claim() -> None:
    rng = np.random.default_rng(0)
    pairs = [matched._compared(SPEEDS[0], 10, rng) for _ in range(25)]
    _, in_kl_R, in_root_R = np.array([matched._plain_claims(*pair) for pair in pairs]).T
    claimed_R = claimed([matched_kl], pairs)[:, 0]
    assert in_kl_R.sum() > 10
    assert not (claimed_R == 1)[~(in_kl_R & in_root_R)].any()
    assert not np.isnan(claimed_R)[in_kl_R == in_root_R].any()


def test_the_page_shows_every_case_and_adds_up() -> None:
    rows = measured("between-evaluations")
    assert [row[:3] for row in rows] == [
        [case.name, str(case.evaluations), str(n)] for case in CASES for n in matched.SEED_COUNTS
    ]
    for row in rows:
        *_, in_root, report, of_readable, readable = shares(row)
        assert report <= in_root
        assert report == pytest.approx(of_readable * readable / 100, abs=0.15)


# --- prompts -----------------------------------------------------------------------------------------------------


def test_simulated_seeds_claim_as_often_as_computed() -> None:
    """Ten seeds of an arm against a base that it equals, and of two arms whose eight prompts favour either."""
    rng = np.random.default_rng(0)
    base = np.mean([prompts._against_base(0.0, 10, rng)[0] for _ in range(30)])
    arms = np.mean([prompts._against_arm(8, 0.25, 10, rng)[0] for _ in range(100)])
    assert likely(100 * base, false_by_seeds(10, 1, 1), 30)
    assert likely(100 * arms, false_by_seeds(10, 1 / 8, 1 / 8 + 0.25**2), 100)


def test_claims_on_the_page_are_as_frequent_as_computed() -> None:
    """Prompts move the difference of two arms by 2/P, and noise and training each of its seeds by 2/P and 2·sd²; the
    base's error is 1/P."""
    rows = measured("arm-claims")
    assert len(rows) == len(prompts.ARM_PROMPTS) * len(prompts.TRAINING) * len(prompts.ARM_SEEDS)
    for row in rows:
        count, training, n = int(row[0]), float(row[1].removesuffix(" sd")), int(row[2])
        expected = false_by_seeds(n, 1 / count, 1 / count + training**2)
        assert likely(shares(row)[0], expected, prompts.COMPARISONS), row
    for row in measured("base-claims"):
        errors, n = float(row[0].removesuffix(" se")), int(row[1])
        assert likely(shares(row)[0], false_by_seeds(n, 1, 1 + errors**2), prompts.COMPARISONS), row


def test_with_the_prompts_false_claims_stay_near_their_level() -> None:
    """No more than a binomial of 5% would show."""
    for row in (*measured("base-claims"), *measured("arm-claims")):
        assert shares(row)[-1] / 100 <= binom.ppf(0.999, prompts.COMPARISONS, 0.05) / prompts.COMPARISONS


@pytest.mark.parametrize(
    ("module", "name", "few"),
    [
        (matched, "between-evaluations", {"CASES": CASES[:1], "SEED_COUNTS": (3,), "COMPARISONS": 10}),
        (prompts, "base-claims", {"BASE_SEEDS": (10,), "COMPARISONS": 4}),
        (prompts, "arm-claims", {"ARM_SEEDS": (20,), "ARM_PROMPTS": (8,), "COMPARISONS": 10}),
        (intervals, "t-intervals", {"SIMULATIONS": 200}),
    ],
)
def test_the_same_table_twice_is_equal_and_another_name_draws_others(
    module: object, name: str, few: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant, value in few.items():
        monkeypatch.setattr(module, constant, value)
    once = table(name)
    assert table(name) == once
    monkeypatch.setitem(TABLES, "other", TABLES[name])
    assert table("other") != once
