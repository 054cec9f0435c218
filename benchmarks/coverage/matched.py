"""False claims at matched KL: arms whose rewards are alike there, read between their evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import xlogy

from benchmarks.calibration.stored import METRICS
from benchmarks.calibration.trials import claimed
from benchmarks.page import markdown, percent, rate
from eval import stats
from eval.report.inputs import JUDGE, KL
from eval.report.numbers.readings import at_kl
from eval.report.numbers.standings import TOTAL_COST, matched_kl

ALPHA = 0.05
COMPARISONS = 500
SEED_COUNTS = (3, 5, 10)
SPREAD_KL = 0.05  # of a run's KL, as a factor's logarithm
SPREAD_REWARD = 0.01
BASE_REWARD = 0.45

Spent = Callable[[np.ndarray], np.ndarray]
"""Share of training, 0 to 1 → KL [nats]."""


@dataclass(frozen=True)
class Case:
    """Two arms of one law, `gain`: (KL [nats], share of training) → reward above the base's. They spend KL differently.

    evaluations: how many a run has after its start.
    """

    name: str
    spent: tuple[Spent, Spent]
    gain: Callable[[np.ndarray, np.ndarray], np.ndarray]
    evaluations: int


def _overshoot(peak: float) -> Spent:
    """About `peak` nats after a tenth of training, 2.1 at the end."""

    def spent(t: np.ndarray) -> np.ndarray:
        settled = 2.1 * (1 - np.exp(-t / 0.03))
        return settled + (peak - 2.1) * (t / 0.1) * np.exp(1 - t / 0.1)

    return spent


def _learning(kl: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Half-trained policies spend KL worse."""
    return 0.24 * np.sqrt(kl) * (1 - 0.25 * np.exp(-t / 0.25))


def _root(kl: np.ndarray, _: np.ndarray) -> np.ndarray:
    return 0.25 * np.sqrt(kl)


def _peaked(kl: np.ndarray, _: np.ndarray) -> np.ndarray:
    """d·(a − b·ln d) with d = √KL, Gao et al. 2023: highest at d = e^(a/b − 1), here 3.8 nats."""
    d = np.sqrt(kl)
    return 0.25 * d - 0.15 * xlogy(d, d)


def _linear(kl: np.ndarray, _: np.ndarray) -> np.ndarray:
    return 0.06 * kl


SPEEDS: tuple[Spent, Spent] = (lambda t: 1.2 * np.sqrt(t), lambda t: 12 * t)
CASES = (
    Case("overshoot, to 3.6 or 2.6 nats", (_overshoot(3.6), _overshoot(2.6)), _learning, 8),
    Case("overshoot, to 3.6 nats or none", (_overshoot(3.6), _overshoot(2.1)), _learning, 8),
    *(Case("speed, reward 0.25·d", SPEEDS, _root, points) for points in (5, 8)),
    *(Case("speed, reward d·(0.25 − 0.15·ln d)", SPEEDS, _peaked, points) for points in (5, 8)),
    Case("speed, reward 0.06·d²", SPEEDS, _linear, 5),
)


def between_evaluations(rng: np.random.Generator) -> str:
    """Two arms that differ in how they spend KL and nowhere else: what three plain readings claim, and the report."""
    head = [
        "the arms differ in",
        "evaluations",
        "seeds",
        "largest KL, lines in KL",
        "first end, lines in KL",
        "first end, lines in √KL",
        "the report",
        "the report, of the readable",
        "readable",
    ]
    rows = []
    for case in CASES:
        for n in SEED_COUNTS:
            pairs = [_compared(case, n, rng) for _ in range(COMPARISONS)]
            plain = np.array([_plain_claims(*pair) for pair in pairs])
            claimed_R = claimed([matched_kl], pairs)[:, 0]
            shares = [rate(claims_R) for claims_R in (*plain.T, claimed_R == 1)]
            readable = [percent(np.nanmean(claimed_R)), rate(~np.isnan(claimed_R))]
            rows.append([case.name, str(case.evaluations), str(n), *shares, *readable])
    return markdown(head, rows)


def _compared(case: Case, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """n runs of each arm, evaluated at the shares (k/K)² of training: paths_NKM of both."""
    t_K = np.linspace(0, 1, case.evaluations + 1) ** 2
    first, second = (_runs(spent(t_K), case, t_K, n, rng) for spent in case.spent)
    return first, second


def _runs(kl_K: np.ndarray, case: Case, t_K: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    kl_NK = kl_K * np.exp(SPREAD_KL * rng.normal(size=(n, 1)))
    moved_NK = SPREAD_REWARD * rng.normal(size=(n, 1)) * (t_K > 0)  # all runs start at the base
    columns = {
        JUDGE: BASE_REWARD + case.gain(kl_NK, t_K) + moved_NK,
        KL: kl_NK,
        TOTAL_COST: np.broadcast_to(1 + t_K, kl_NK.shape),
    }
    return np.stack([columns[metric] for metric in METRICS], axis=-1)


def _plain_claims(a_NKM: np.ndarray, b_NKM: np.ndarray) -> list[bool]:
    """Whether arms are told apart at the largest KL that all runs reached, along lines straight in KL; and at the
    smallest at which one ended, along lines straight in KL and in √KL."""
    kl_XK = np.concatenate([a_NKM, b_NKM])[..., METRICS.index(KL)]
    reached, ended = kl_XK.max(-1).min(), kl_XK[:, -1].min()
    return [_apart(a_NKM, b_NKM, *reading) for reading in ((reached, 1.0), (ended, 1.0), (ended, 0.5))]


def _apart(a_NKM: np.ndarray, b_NKM: np.ndarray, kl: float, power: float) -> bool:
    x, y = METRICS.index(KL), METRICS.index(JUDGE)
    of_a, of_b = (
        [at_kl(path_KM[:, x], path_KM[:, y], kl, power) for path_KM in paths_NKM]
        for paths_NKM in (a_NKM, b_NKM)
    )
    return stats.paired_difference(of_a, of_b).p_value < ALPHA
