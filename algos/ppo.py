"""Proximal policy optimization (Schulman et al. 2017) with a learned value function."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from algos.advantages import gae, token_rewards, whiten
from algos.engine.algorithm import Algorithm, Needs, Outputs, State, require, require_value_settings
from algos.engine.rollouts import Rollouts
from algos.losses import Aggregation, kl_estimate, ppo_loss, ratio_metrics, value_loss


@dataclass(frozen=True)
class PPO(Algorithm):
    """Several passes over each batch, each token's ratio to the sampling policy clipped to 1 ± ε.

    Details follow the reference implementations (Ziegler et al. 2019; Huang et al. 2024, "The N+
    implementation details"); each is an option with its source in docs/algorithms.md.
    """

    clip_range: float = 0.2
    """ε: how far a token's ratio to the sampling policy may move before its loss is clipped."""
    clip_range_high: float | None = None
    """Upper clip where it differs from the lower one (Yu et al. 2025)."""
    dual_clip: float | None = None
    """c > 1: the loss of negative advantages is at most −c·A (Ye et al. 2020); None: no such bound."""
    value_clip_range: float | None = 0.2
    """How far a value may move from the old one before its loss is clipped; None: any distance."""
    gamma: float = 1.0
    """Discount of later token rewards."""
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation: 1 has no bias, 0 the least variance (Schulman et al. 2016)."""
    whiten_advantages: bool = True
    """Whether advantages are scaled to mean 0 and variance 1 over the batch; on by default, and this flag turns it off."""
    whiten_rewards: bool = False
    """Divide token rewards by their standard deviation; their mean is kept."""
    ppo_epochs: int = 4
    """Passes over each iteration's rollouts."""
    minibatches: int = 1
    """Optimizer steps each pass is split into."""
    aggregation: Aggregation = "token_mean"
    """How the losses of tokens are averaged."""
    value_model: Literal["shared", "separate"] = "shared"
    """The value function: a head on the policy's trunk, or a network of its own."""
    value_coefficient: float = 0.1
    """Weight of the value loss in the total."""
    value_learning_rate: float | None = None
    """Of the value head, or of the value function's own network; None: `learning_rate`."""
    kl_control: Literal["fixed", "adaptive"] = "fixed"
    """`adaptive` steers β to `kl_target`; comparisons at one β need `fixed`."""
    kl_target: float = 6.0
    """Sequence KL in nats that adaptive control steers to (Ziegler et al. 2019, section 2.2)."""
    kl_horizon: float = 10_000
    """Completions over which adaptive control corrects."""

    name: ClassVar[str] = "ppo"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.clip_range < 1, "clip_range", "in (0, 1)", self.clip_range)
        require(
            self.clip_range_high is None or self.clip_range_high > 0,
            "clip_range_high",
            "above 0",
            self.clip_range_high,
        )
        require(self.dual_clip is None or self.dual_clip > 1, "dual_clip", "above 1", self.dual_clip)
        require(
            self.value_clip_range is None or self.value_clip_range > 0,
            "value_clip_range",
            "above 0",
            self.value_clip_range,
        )
        require(0 <= self.gamma <= 1, "gamma", "in [0, 1]", self.gamma)
        require(0 <= self.gae_lambda <= 1, "gae_lambda", "in [0, 1]", self.gae_lambda)
        require(self.ppo_epochs >= 1, "ppo_epochs", "at least 1", self.ppo_epochs)
        require(self.minibatches >= 1, "minibatches", "at least 1", self.minibatches)
        require_value_settings(self.value_coefficient, self.value_learning_rate)
        steered = self.beta > 0 or self.kl_control == "fixed"
        require(steered, "beta", "above 0 with kl_control adaptive, which multiplies it", self.beta)
        require(0 < self.kl_target < math.inf, "kl_target", "above 0 and finite", self.kl_target)
        require(0 < self.kl_horizon < math.inf, "kl_horizon", "above 0 and finite", self.kl_horizon)

    @property
    def needs(self) -> Needs:
        return Needs(
            values=self.value_model,
            value_learning_rate=self.value_learning_rate,
            passes=self.ppo_epochs,
            steps_per_pass=self.minibatches,
        )

    def init_state(self) -> State:
        return {"beta": torch.tensor(float(self.beta))} if self.kl_control == "adaptive" else {}

    def prepare(self, rollouts: Rollouts, state: State) -> tuple[Rollouts, State]:
        scores_PG, values_PGT = rollouts.filled("scores_PG", "values_PGT")
        logps_PGT, ref_logps_PGT = rollouts.filled("logps_PGT", "ref_logps_PGT")
        mask_PGT, loss_mask_PGT = rollouts.learnable_PGT, rollouts.loss_mask_PGT
        beta = state["beta"].to(scores_PG.device) if self.kl_control == "adaptive" else self.beta
        rewards_PGT = token_rewards(scores_PG, logps_PGT, ref_logps_PGT, mask_PGT, loss_mask_PGT, beta)
        if self.whiten_rewards:
            rewards_PGT = whiten(rewards_PGT, loss_mask_PGT, shift_mean=False)
        # Returns come from the advantages before whitening: the value function learns rewards, not z-scores.
        advantages_PGT, returns_PGT = gae(rewards_PGT, values_PGT, mask_PGT, self.gamma, self.gae_lambda)
        if self.whiten_advantages:
            advantages_PGT = whiten(advantages_PGT, loss_mask_PGT)
        if self.kl_control == "adaptive":
            kl_PG = torch.where(rollouts.sampled_PGT, kl_estimate(logps_PGT, ref_logps_PGT), 0.0).sum(-1)
            state = {"beta": self._adapted(state["beta"], kl_PG)}
        return replace(rollouts, advantages_PGT=advantages_PGT, returns_PGT=returns_PGT), state

    def _adapted(self, beta: Tensor, kl_PG: Tensor) -> Tensor:
        """β ← β·(1 + clip(KL/target − 1, ±0.2)·min(n/horizon, 1)) (Ziegler et al. 2019, section 2.2, without the minimum)."""
        error = (kl_PG.mean().to(beta.device) / self.kl_target - 1).clamp(-0.2, 0.2)
        # A batch larger than the horizon corrects at most once: beyond, β could turn negative.
        return beta * (1 + error * min(kl_PG.numel() / self.kl_horizon, 1.0))

    def loss(self, outputs: Outputs, prepared: Rollouts) -> tuple[Tensor, dict[str, Tensor]]:
        old_logps_PGT, advantages_PGT = prepared.filled("logps_PGT", "advantages_PGT")
        old_values_PGT, returns_PGT = prepared.filled("values_PGT", "returns_PGT")
        assert outputs.values_PGT is not None
        mask_PGT, totals = prepared.loss_mask_PGT, prepared.totals
        policy = ppo_loss(
            outputs.logps_PGT,
            old_logps_PGT,
            advantages_PGT,
            mask_PGT,
            clip_range=self.clip_range,
            clip_range_high=self.clip_range_high,
            dual_clip=self.dual_clip,
            aggregation=self.aggregation,
            totals=totals,
        )
        fit = value_loss(
            outputs.values_PGT, returns_PGT, mask_PGT, old_values_PGT, self.value_clip_range, totals
        )
        return policy + self.value_coefficient * fit, {
            "policy_loss": policy.detach(),
            "value_loss": fit.detach(),
            **ratio_metrics(
                outputs.logps_PGT, old_logps_PGT, mask_PGT, self.clip_range, self.clip_range_high, totals
            ),
        }
