"""The optimal reward–KL frontier of one reward, estimated from the responses of several samplers.

The policy with the highest E[r] − β·KL(π‖π_ref) is π*_β ∝ π_ref·e^{r/β}; as β falls, its KL and reward run along the
frontier. Arrays in, arrays out: nothing here knows models or files. Shapes: K samplers, the reference
first; P prompts; M = Σ_k counts[k] responses a prompt, ordered by sampler; B values of β. Rewards and β are in units
of the reward, log-probabilities and KL in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.stats import Estimate, bootstrap_levels, bootstrap_means, mean_interval

SOLID_ESS, DASHED_ESS = 50, 10
SHARE_OF_PROMPTS = 0.9
"""Where this share of the prompts has this effective sample size, the curve is drawn solid or dashed."""


@dataclass(frozen=True)
class Curve:
    """The frontier of one reward: a point a β, β descending, so KL ascending.

    `log_z_BP` is log E_ref[e^{r/β}], so β·log Z = E[r] − β·KL at every point; `ess_BP` the effective sample size.
    """

    betas_B: np.ndarray
    kl_BP: np.ndarray
    reward_BP: np.ndarray
    log_z_BP: np.ndarray
    ess_BP: np.ndarray

    @property
    def kl_B(self) -> np.ndarray:
        return np.asarray(self.kl_BP.mean(-1))

    @property
    def reward_B(self) -> np.ndarray:
        return np.asarray(self.reward_BP.mean(-1))

    @property
    def reach_B(self) -> np.ndarray:
        return reach(self.ess_BP)

    def index(self, beta: float) -> int:
        """Where β stands in the grid; ValueError if it does not."""
        (found,) = np.nonzero(np.isclose(self.betas_B, beta, rtol=1e-9, atol=0))
        if len(found) == 0:
            raise ValueError(f"the frontier was not estimated at beta {beta}; include it in beta_grid")
        return int(found[0])

    def reward_at(self, kl: float | np.ndarray, solid: bool = False) -> np.ndarray:
        """The frontier's reward at a KL: kl [...] nats → [...]; nan beyond what is drawn, or is drawn solid.

        Linear between the points in √KL, in which the frontier starts as a straight line: it gains σ·√(2·KL).
        """
        drawn_B = self.reach_B == "solid" if solid else self.reach_B != "none"
        if not drawn_B.any():
            return np.full(np.shape(kl), np.nan)
        root = np.sqrt(np.maximum(kl, 0.0))  # a sampled KL of nearly 0 can be negative
        return np.asarray(
            np.interp(root, np.sqrt(self.kl_B[drawn_B]), self.reward_B[drawn_B], left=np.nan, right=np.nan)
        )

    def band(self, kl_Q: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """95% percentile interval of the reward at each KL, prompts resampled: kl_Q nats → low_Q, high_Q; nan where not drawn."""
        prompts = self.kl_BP.shape[1]
        if prompts < 2:  # one prompt says nothing of others
            return np.full(np.shape(kl_Q), np.nan), np.full(np.shape(kl_Q), np.nan)
        means_R2B = bootstrap_means(np.concatenate([self.kl_BP, self.reward_BP]).T, 1000, rng)
        root_Q = np.sqrt(np.maximum(kl_Q, 0.0))
        reward_RQ = [
            np.interp(root_Q, np.sqrt(kl_B), reward_B)
            for kl_B, reward_B in (np.split(means_2B, 2) for means_2B in means_R2B)
        ]
        low_Q, high_Q = np.quantile(reward_RQ, bootstrap_levels(prompts), axis=0)
        outside_Q = np.isnan(self.reward_at(kl_Q))
        return np.where(outside_Q, np.nan, low_Q), np.where(outside_Q, np.nan, high_Q)


def reach(ess_BP: np.ndarray) -> np.ndarray:
    """How far a curve is to be trusted: ess_BP, β descending → "solid", "dashed" or "none" for each β.

    What is lost at one β stays lost at every smaller one: the samples in between are missing. No sample size knows of
    responses that no sampler gave: reward and KL are low together where those are the best, and points slide along
    the curve rather than off it.
    """
    level_B = sum(
        ((ess_BP >= least).mean(-1) >= SHARE_OF_PROMPTS).astype(int) for least in (DASHED_ESS, SOLID_ESS)
    )
    return np.array(["none", "dashed", "solid"])[np.minimum.accumulate(level_B)]


def beta_grid(rewards_PN: np.ndarray, include: Sequence[float] = ()) -> np.ndarray:
    """β from the base to beyond what samples can reach, descending: the reference's rewards_PN → betas_B.

    The first is ∞, the base itself; then log-spaced over 300 to 1/300 of σ, the rewards' spread at a prompt: at first
    KL ≈ σ²/(2β²) is 0.000006 nats. `include`d ones (an objective's β) stand between them.
    """
    spread = float(np.sqrt(np.var(rewards_PN, axis=-1).mean()))
    if spread <= 1e-9 * float(np.abs(rewards_PN).max()):  # all alike but for rounding: any β gives the base
        spread = 1.0
    spaced = np.geomspace(300 * spread, spread / 300, num=120)
    return np.unique(np.concatenate([[np.inf], spaced, np.asarray(include, dtype=float)]))[::-1]


def tilted(
    logps_KPM: np.ndarray, counts: Sequence[int], rewards_PM: np.ndarray, betas_B: np.ndarray
) -> Curve:
    """The frontier by multiple importance sampling with the balance heuristic (Veach & Guibas 1995).

    A response weighs π_ref·e^{r/β} over the mixture of all samplers, Σ_k (counts[k]/M)·q_k; with one sampler that is
    plain importance sampling. KL = E[r]/β − log Z, with the same weights in both, so it is the KL between two
    distributions on the pool: never negative, 0 at the base, rising as β falls, with slope dE[r]/dKL = β.
    The effective sample size is (Σw)²/Σw² (Kish 1965), for each prompt.
    """
    betas_B = np.asarray(betas_B, dtype=float)
    if np.any(np.diff(betas_B) >= 0) or betas_B[-1] <= 0:
        raise ValueError(f"betas must be positive and descend; got {betas_B}")
    if not np.isfinite(rewards_PM).all():
        raise ValueError("rewards must be finite numbers; at least one is not")
    log_v_PM = reference_weights(logps_KPM, counts)
    # Below the best: at a small β a reward far from 0 would use up the digits that its differences need.
    best_P1 = rewards_PM.max(-1, keepdims=True)
    points = [_tilt(log_v_PM, rewards_PM - best_P1, beta) for beta in betas_B]
    below_BP, log_z_BP, ess_BP = (np.array(column) for column in zip(*points, strict=True))
    betas_B1, best_P = betas_B[:, None], best_P1[:, 0]
    kl_BP = below_BP / betas_B1 - log_z_BP
    kl_BP[kl_BP < 1e-12] = 0.0  # rounding, where no tilt moves anything
    return Curve(betas_B, kl_BP, below_BP + best_P, log_z_BP + best_P / betas_B1, ess_BP)


def _tilt(log_v_PM: np.ndarray, rewards_PM: np.ndarray, beta: float) -> tuple[np.ndarray, ...]:
    """(E[r], log Z, effective sample size) of π*_β for each prompt."""
    log_w_PM = log_v_PM + rewards_PM / beta
    largest_P = log_w_PM.max(-1)
    w_PM = np.exp(log_w_PM - largest_P[:, None])
    sum_P = w_PM.sum(-1)
    return (w_PM * rewards_PM).sum(-1) / sum_P, np.log(sum_P) + largest_P, sum_P**2 / (w_PM**2).sum(-1)


def reference_weights(logps_KPM: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Log-weights under which the pool stands for the reference: log_v_PM, Σ_m v = 1 for each prompt.

    v ∝ c·π_ref/q̄ with the mixture q̄ = Σ_k (counts[k]/M)·q_k. The c, near 1, are calibrated: under them every
    sampler's q_k/q̄ averages exactly 1, as it does in expectation since its probabilities sum to 1. That is
    regression on these control variates (Owen & Zhou 2000, "Safe and effective importance sampling"): the more
    a tilted policy resembles one of the samplers, the less noise is left in its log Z.
    """
    log_ratio_KPM = _log_ratios(logps_KPM, counts)
    calibration_PM = _calibration(
        np.exp(log_ratio_KPM[1:]).transpose(1, 0, 2)
    )  # the reference's follows from these
    log_v_PM = log_ratio_KPM[0] + np.log(calibration_PM)
    return np.asarray(log_v_PM - np.logaddexp.reduce(log_v_PM, axis=-1, keepdims=True))


def total_probability(logps_KPM: np.ndarray, counts: Sequence[int]) -> list[Estimate]:
    """Each sampler's probabilities summed, by importance sampling: 1, if responses were drawn from them.

    The mean of q_k/q̄ over the pool, without calibration, with Student's t interval of 99.9% over prompts. Intervals that leave
    out 1 mean a bug: a sampler, not necessarily that one, whose responses were drawn at another temperature, from
    another template or of truncated probabilities.
    """
    mass_KP = np.exp(_log_ratios(logps_KPM, counts)).mean(-1)
    return [mean_interval(mass_P, 0.999) for mass_P in mass_KP]


def _log_ratios(logps_KPM: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """log q_k/q̄ of every response, with the mixture q̄ = Σ_k (counts[k]/M)·q_k."""
    share_K = np.asarray(counts, dtype=float) / logps_KPM.shape[-1]
    if len(share_K) != len(logps_KPM) or (share_K <= 0).any() or not np.isclose(share_K.sum(), 1):
        raise ValueError(
            f"every sampler needs a count, all adding up to M; got {tuple(counts)} for K, P, M = {logps_KPM.shape}"
        )
    if not np.isfinite(logps_KPM.max(0)).all():
        raise ValueError(
            "every response must be possible under one sampler; one has log-probability -inf or nan"
        )
    log_mixture_PM = np.logaddexp.reduce(logps_KPM + np.log(share_K)[:, None, None], axis=0)
    return np.asarray(logps_KPM - log_mixture_PM)


def _calibration(ratio_PKM: np.ndarray) -> np.ndarray:
    """c_PM, of mean 1, under which each q_k/q̄ averages 1; all 1 for a prompt where one would not be positive."""
    mean_PK1 = ratio_PKM.mean(-1, keepdims=True)
    centred_PKM = ratio_PKM - mean_PK1
    covariance_PKK = centred_PKM @ centred_PKM.transpose(0, 2, 1) / ratio_PKM.shape[-1]
    # The ridge is for samplers that are alike: their ratio is a constant, and there is nothing to calibrate.
    covariance_PKK += 1e-8 * np.eye(covariance_PKK.shape[-1])
    slope_PK1 = np.linalg.solve(covariance_PKK, mean_PK1 - 1)
    c_PM = 1 - (slope_PK1 * centred_PKM).sum(1)
    return np.where((c_PM > 0).all(-1, keepdims=True), c_PM, 1.0)
