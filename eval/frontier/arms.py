"""Where an arm stands to the frontier: its own point, its regret at one β, and whether it seems to lie above.

Every interval is Student's t over prompts: arm and frontier are paired on the same prompts, so what prompts differ in
cancels. The logarithm of an unbiased estimate is low on average, so log Z is low by about half its relative variance,
at most 1/(2·ESS): where solid, 0.01 nats. Regret is low and `above` high by β times that, less where the arm's own
responses are part of the pool: those that happen to score well raise the arm and the frontier together.
Shapes as in `estimate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from eval.frontier.estimate import Curve
from eval.stats import Estimate, mean_interval


def arm_point(
    logps_KPM: np.ndarray, counts: Sequence[int], rewards_PM: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """KL(π_k‖π_ref) and mean reward of sampler k from its own responses: kl_P nats, reward_P.

    The KL is the mean of log π_k − log π_ref: unbiased, so slightly negative where the two are nearly alike.
    """
    own = slice(sum(counts[:k]), sum(counts[: k + 1]))
    return (logps_KPM[k, :, own] - logps_KPM[0, :, own]).mean(-1), rewards_PM[:, own].mean(-1)


def objective(kl_P: np.ndarray, reward_P: np.ndarray, beta: float | np.ndarray) -> np.ndarray:
    """E[r] − β·KL for each prompt: kl_P nats, reward_P → [P], in units of the reward; [..., P] for several β [..., 1]."""
    return reward_P - beta * kl_P


def regret(curve: Curve, kl_P: np.ndarray, reward_P: np.ndarray, beta: float) -> Estimate:
    """β·E log Z − (E[r] − β·KL) = β·KL(π‖π*_β): kl_P nats, reward_P → mean over prompts, in units of the reward.

    nan unless π*_β lies on the solid part; ValueError where the curve has no point at β.
    """
    at = curve.index(beta)
    if curve.reach_B[at] != "solid":
        return Estimate(math.nan, math.nan, math.nan, len(kl_P))
    return mean_interval(beta * curve.log_z_BP[at] - objective(kl_P, reward_P, beta))


def above(curve: Curve, kl_P: np.ndarray, reward_P: np.ndarray, confidence: float = 0.95) -> Estimate:
    """An arm's reward minus a bound on what any policy could have at the arm's KL; an interval above 0 means a bug.

    The frontier is concave, the lower envelope of its tangents: R(κ) = min_β β·(κ + E log Z_β). So this is minus the
    arm's smallest regret over the solid β. Where the arm's KL lies on the solid part, the bound is the frontier
    itself (to 0.2% of the gain, between two β of the default grid); beyond, it is the last tangent, which is above
    the frontier, so an arm there lacks at most what this says. nan where nothing is solid. A KL that was estimated below
    0 counts as 0, where the frontier is the reference's reward: steep tangents would lie far below it.
    """
    kl_P = kl_P - min(float(kl_P.mean()), 0.0)
    solid_B = (curve.reach_B == "solid") & np.isfinite(curve.betas_B)
    if not solid_B.any():
        return Estimate(math.nan, math.nan, math.nan, len(kl_P))
    betas_B1 = curve.betas_B[solid_B][:, None]
    difference_BP = objective(kl_P, reward_P, betas_B1) - betas_B1 * curve.log_z_BP[solid_B]
    return mean_interval(difference_BP[difference_BP.mean(-1).argmax()], confidence)
