"""A run's value between its evaluations: at a cost, or at a distance from the base, read off its own path."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from eval.report.inputs import JUDGE
from eval.report.numbers.frames import Evaluations


@dataclass(frozen=True)
class Path:
    """One run's evaluations where both numbers are finite, from its start on, in the order of training; spent_N: of what the
    budget counts, nan where that was not recorded."""

    x_N: np.ndarray
    judge_N: np.ndarray
    spent_N: np.ndarray

    @property
    def trained_N(self) -> np.ndarray:
        """Share of the run's training that was done by each evaluation, from 0 to 1; nan where it is not known."""
        done_N = self.spent_N - self.spent_N[0]
        return done_N / done_N[-1] if done_N[-1] > 0 else np.full(len(done_N), math.nan)


@dataclass(frozen=True)
class Reading:
    """Where an arm is in its training where it is read, means over its runs: share of the training done, share of the budget
    spent (an arm may end before its budget), total cost of the preparation [FLOPs]; nan where it is not known."""

    trained: float
    spent: float
    prepared: float


def paths_of(view: Evaluations, x: str) -> dict[str, dict[int, Path]]:
    """arm → seed → path of every finished run that was measured at its start and later; arms without one left out."""
    if not {x, JUDGE} <= set(view.paths.columns):
        return {}
    rows = view.paths[view.paths["finished"]].sort_values(["seed", "point"], kind="stable")
    found: dict[str, dict[int, Path]] = {arm: {} for arm in view.arms}
    for arm in view.arms:
        own_rows = rows[rows["arm"] == arm].reindex(columns=["seed", "point", x, JUDGE, view.axis])
        measured = own_rows.to_numpy(dtype=float)
        measured = measured[np.isfinite(measured[:, :4]).all(axis=1)]
        for seed in np.unique(measured[:, 0]):
            own = measured[measured[:, 0] == seed]
            if len(own) > 1 and own[0, 1] == 0:
                found[arm][int(seed)] = Path(own[:, 2], own[:, 3], own[:, 4])
    return {arm: own for arm, own in found.items() if own}


def budget_used(view: Evaluations) -> dict[tuple[str, int], float]:
    """(arm, seed) → share of its budget that the run had used at its end; those left out of which it is not recorded."""
    if "fraction" not in view.runs.columns:
        return {}
    rows = view.runs.dropna(subset=["fraction"])
    return {
        (str(arm), int(seed)): float(share)
        for arm, seed, share in rows[["arm", "seed", "fraction"]].itertuples(index=False)
    }


def at_cost(costs_N: np.ndarray, values_N: np.ndarray, cost: float) -> float:
    """The value at this cost on straight lines between evaluations; nan before the first and beyond the last."""
    return float(np.interp(cost, costs_N, values_N, left=math.nan, right=math.nan))


def at_kl(kls_N: np.ndarray, values_N: np.ndarray, kl: float, power: float = 0.5) -> float:
    """The value where the path (kls_N, values_N), in the order of training, last passes `kl`; nan where it never does.

    A path can turn back: it passes the same KL on its way out, half trained, and again when it has learned to spend
    its KL better. The last passage is the policy with the most training.

    Lines are straight in KL^power. Rewards bend down in KL: the best possible path begins straight in d = √KL, and the
    paths of Gao et al. 2023, d·(α − β·d) and d·(α − β·ln d), lie nearer their chords in d than those in KL as far as
    their peak.
    """
    spent_N, spent = np.maximum(kls_N, 0.0) ** power, max(kl, 0.0) ** power
    for i in range(len(spent_N) - 1, 0, -1):
        before, after = spent_N[i - 1], spent_N[i]
        if min(before, after) <= spent <= max(before, after):
            share = (spent - before) / (after - before) if after != before else 1.0
            return float(values_N[i - 1] + share * (values_N[i] - values_N[i - 1]))
    return math.nan


def before_first(path: Path, x: float) -> bool:
    """Whether `x` is last passed between the start and the first evaluation after it."""
    return bool(path.x_N[0] < x < path.x_N[1:].min())
