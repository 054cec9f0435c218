"""What the best possible policy would reach, and where each arm stands to it: numbers for the report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eval.frontier.arms import above, arm_point, objective, regret
from eval.frontier.best_of_n import NS, best_of_n, best_of_n_kl
from eval.frontier.estimate import Curve, beta_grid, tilted
from eval.frontier.plain import unusual
from eval.report.inputs import JUDGE, PROXY, ReportInput
from eval.report.numbers.objectives import own_beta, trained_otherwise
from eval.report.numbers.standings import MIN_KL
from eval.stats import Estimate, mean_interval

if TYPE_CHECKING:
    from eval.frontier.pool import Pool

REWARDS = {PROXY: "proxy", JUDGE: "judge"}
"""Metric of a comparison → name in the pool."""


@dataclass(frozen=True)
class ArmPoint:
    """One arm's sampled policy against the frontier of one reward, on the same prompts."""

    seed: int
    kl: float
    reward: float
    left: Estimate
    """Reward left on the table: the frontier's at the arm's KL minus the arm's own; interval over prompts."""
    inside: bool
    """Whether the arm's KL lies within the solid part; beyond it at most so much is left."""
    impossible: bool
    """Whether it lies above what any policy can have, at 99.9%: a mistake somewhere."""
    objective: float
    """E[r] − β·KL at the objective's β; nan without one."""
    regret: Estimate


@dataclass(frozen=True)
class Reachable:
    """The frontier of one reward with everything that is held against it."""

    metric: str
    curve: Curve
    base: float
    band: tuple[np.ndarray, np.ndarray, np.ndarray]
    """KL grid, and the 95% interval over prompts of the frontier's reward there."""
    best_of: dict[int, tuple[float, float]]
    """N → (bound on the KL, expected reward) of the best of N responses of the base, chosen by the proxy."""
    arms: dict[str, ArmPoint]
    over_arms: dict[int, dict[str, Estimate]]
    """N → arm → the reward of the best of N minus the arm's own; interval over prompts."""

    @property
    def furthest(self) -> float:
        """KL at which the solid part ends; nan where nothing is solid."""
        solid_B = self.curve.reach_B == "solid"
        return float(self.curve.kl_B[solid_B].max()) if solid_B.any() else math.nan

    def share(self, arm: str) -> float:
        """The arm's gain over the base as a share of the gain that is possible at its KL; nan within MIN_KL of the base,
        where both are the noise of what was drawn."""
        point = self.arms[arm]
        if point.kl < MIN_KL:
            return math.nan
        possible = point.reward + point.left.mean - self.base
        return (point.reward - self.base) / possible if possible > 0 else math.nan


def reachable(comparison: ReportInput) -> dict[str, Reachable]:
    """Metric → frontier, for proxy and judge; empty where no samples were drawn for it, and where the responses
    that are judged are not `is_plain`: their reward and the policies' KL are not of one distribution.

    Without the proxy where it left a sample unscored. E[r] is not defined then, and over the scored responses alone the
    best policy would be that of another reference, the base given that it is scored, at a KL to that one.
    """
    pool = comparison.pool
    if pool is None or not is_plain(comparison):
        return {}
    beta = objective_beta(comparison)
    return {
        metric: _of(pool, metric, name, beta)
        for metric, name in REWARDS.items()
        if not np.isnan(pool.rewards[name]).any()
    }


def unscored(comparison: ReportInput) -> float:
    """Share of the frontier's samples that the training reward left unscored; 0 without samples."""
    pool = comparison.pool
    return 0.0 if pool is None else float(np.isnan(pool.rewards["proxy"]).mean())


def is_plain(comparison: ReportInput) -> bool:
    """Whether the responses that are judged are samples of the policies themselves."""
    return not unusual(comparison.settings.get("eval") or {})


def objective_beta(comparison: ReportInput) -> float | None:
    """The declared β, or the one β of all arms for which it is the coefficient of the objective; None where there is none,
    or where training was after another objective than that of the reward and KL that are reported."""
    declared = comparison.settings.get("objective_beta")
    if declared is not None:
        return float(declared)
    if trained_otherwise(comparison):
        return None
    own = own_beta(comparison)
    betas = {
        float((about.get("settings") or {}).get("beta", 0.0))
        for arm, about in (comparison.facts.get("arms") or {}).items()
        if arm not in own
    }
    only = betas.pop() if len(betas) == 1 else 0.0
    return only or None


def _of(pool: Pool, metric: str, name: str, beta: float | None) -> Reachable:
    rewards_PM, base = pool.rewards[name], pool.of("base")
    betas_B = beta_grid(rewards_PM[:, base], include=[] if beta is None else [beta])
    curve = tilted(pool.logps_KPM, pool.counts, rewards_PM, betas_B)
    drawn_B = curve.reach_B != "none"
    grid = np.linspace(0, math.sqrt(float(curve.kl_B[drawn_B].max(initial=0))), 80) ** 2
    low, high = curve.band(grid, np.random.default_rng(0))
    values = _best_of(pool.rewards["proxy"][:, base], rewards_PM[:, base])
    best_of = {n: (float(best_of_n_kl([n])[0]), float(value_P.mean())) for n, value_P in values.items()}
    arms = {arm: _point(pool, k, rewards_PM, curve, beta) for k, arm in enumerate(pool.samplers) if k > 0}
    own = {arm: rewards_PM[:, pool.of(arm)].mean(-1) for arm in arms}
    over = {n: {arm: mean_interval(value_P - own[arm]) for arm in arms} for n, value_P in values.items()}
    return Reachable(metric, curve, float(curve.reward_B[0]), (grid, low, high), best_of, arms, over)


def _best_of(chosen_by_PM: np.ndarray, valued_by_PM: np.ndarray) -> dict[int, np.ndarray]:
    """N → expected reward of the best of N, [P], for each N up to the responses of a prompt: none where one that might be
    chosen has no score."""
    ns = [n for n in NS if n <= chosen_by_PM.shape[-1]]
    if np.isnan(chosen_by_PM).any():
        return {}
    return dict(zip(ns, best_of_n(chosen_by_PM, valued_by_PM, ns), strict=True))


def _point(pool: Pool, k: int, rewards_PM: np.ndarray, curve: Curve, beta: float | None) -> ArmPoint:
    kl_P, reward_P = arm_point(pool.logps_KPM, pool.counts, rewards_PM, k)
    over = above(curve, kl_P, reward_P)
    unknown = Estimate(math.nan, math.nan, math.nan, 0)
    return ArmPoint(
        seed=pool.seeds[k],
        kl=float(kl_P.mean()),
        reward=float(reward_P.mean()),
        left=over.negated,
        impossible=above(curve, kl_P, reward_P, 0.999).low > 0,
        inside=bool(np.isfinite(curve.reward_at(float(kl_P.mean()), solid=True))),
        objective=math.nan if beta is None else float(objective(kl_P, reward_P, beta).mean()),
        regret=unknown if beta is None else regret(curve, kl_P, reward_P, beta),
    )
