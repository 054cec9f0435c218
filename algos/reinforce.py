"""REINFORCE with a baseline (Williams 1992): the plain policy gradient on whole responses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from algos.advantages import group_mean_std, leave_one_out, reward_to_go, token_rewards
from algos.engine.algorithm import Algorithm, Needs, Outputs, State, require, require_value_settings
from algos.engine.rollouts import Rollouts
from algos.losses import Aggregation, policy_gradient_loss, value_loss

Baseline = Literal["none", "ema", "batch_mean", "leave_one_out", "greedy", "value"]


@dataclass(frozen=True)
class REINFORCE(Algorithm):
    """−(1/B)·Σ A·log π with A = R − b, where R = score − β·Σ(log π − log π_ref).

    Baselines: `none`; `ema`, a moving average of R, updated after use; `batch_mean`, which contains R
    itself and so shrinks the expected gradient by (n−1)/n; `leave_one_out` (RLOO, Ahmadian et al. 2024);
    `greedy`, the score of the greedy response (ReMax, Li et al. 2023); `value`, a learned V(s_t).
    """

    baseline: Baseline = "leave_one_out"
    """What is subtracted from the return; `leave_one_out` is RLOO, `greedy` is ReMax."""
    aggregation: Aggregation = "sequence_sum"
    """How the losses of tokens are averaged; the means change the objective."""
    reward_to_go: bool = False
    """Whether token t is credited with the rewards from t on rather than with the whole return."""
    ema_decay: float = 0.95
    """Decay of the `ema` baseline."""
    scale_by_group_std: bool = False
    """Divide by the group's standard deviation, as GRPO does: it rescales reward against KL. With the baseline
    `leave_one_out` alone."""
    value_model: Literal["shared", "separate"] = "shared"
    """With the baseline `value`: a head on the policy's trunk, or a network of its own."""
    value_coefficient: float = 0.1
    """Weight of the value loss in the total."""
    value_learning_rate: float | None = None
    """Of the value head, or of the value function's own network; None: `learning_rate`."""

    name: ClassVar[str] = "reinforce"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.ema_decay < 1, "ema_decay", "in [0, 1)", self.ema_decay)
        # Advantages that are not centred on their group would be divided by next to nothing where its returns are alike.
        scalable = self.baseline == "leave_one_out" or not self.scale_by_group_std
        require(scalable, "baseline", "leave_one_out with scale_by_group_std", self.baseline)
        require_value_settings(self.value_coefficient, self.value_learning_rate)

    @property
    def needs(self) -> Needs:
        return Needs(
            min_group_size=2 if self.baseline == "leave_one_out" else 1,
            values=self.value_model if self.baseline == "value" else None,
            value_learning_rate=self.value_learning_rate,
            greedy=self.baseline == "greedy",
        )

    def init_state(self) -> State:
        return {"ema": torch.zeros(()), "ema_weight": torch.zeros(())} if self.baseline == "ema" else {}

    def prepare(self, rollouts: Rollouts, state: State) -> tuple[Rollouts, State]:
        scores_PG, logps_PGT, ref_logps_PGT = rollouts.filled("scores_PG", "logps_PGT", "ref_logps_PGT")
        mask_PGT, loss_mask_PGT = rollouts.learnable_PGT, rollouts.loss_mask_PGT
        rewards_PGT = token_rewards(scores_PG, logps_PGT, ref_logps_PGT, mask_PGT, loss_mask_PGT, self.beta)
        returns_PG = rewards_PGT.sum(-1)
        # A learned V(s_t) predicts what is still to come, so it is the baseline of the reward to go.
        if self.reward_to_go or self.baseline == "value":
            credit_PGT = reward_to_go(rewards_PGT, mask_PGT)
        else:
            credit_PGT = returns_PG[..., None].expand_as(rewards_PGT)
        baseline_PGT, state = self._baseline(rollouts, returns_PG, state)
        advantages_PGT = credit_PGT - baseline_PGT
        if self.scale_by_group_std:
            _, std_P1 = group_mean_std(returns_PG, rollouts.learnable_PG)
            advantages_PGT = advantages_PGT / (std_P1 + 1e-4)[..., None]
        advantages_PGT = torch.where(mask_PGT, advantages_PGT, 0.0)
        # Zero where there is no score: what is masked in a loss must be finite, or its gradient is not.
        credit_PGT = torch.where(mask_PGT, credit_PGT, 0.0)
        return replace(rollouts, advantages_PGT=advantages_PGT, returns_PGT=credit_PGT), state

    def _baseline(self, rollouts: Rollouts, returns_PG: Tensor, state: State) -> tuple[Tensor, State]:
        """What is subtracted from the credit, broadcastable to [P, G, T], and the state afterwards."""
        learnable_PG = rollouts.learnable_PG
        if self.baseline == "ema":
            # Divided by its weight, the average is unbiased from the second iteration on (as in Adam).
            ema, weight, decay = state["ema"], state["ema_weight"], self.ema_decay
            mean = returns_PG[learnable_PG].mean().cpu()
            state = {"ema": decay * ema + (1 - decay) * mean, "ema_weight": decay * weight + (1 - decay)}
            return (ema / weight if weight > 0 else ema).to(returns_PG.device), state
        if self.baseline == "batch_mean":
            return returns_PG[learnable_PG].mean(), state
        if self.baseline == "leave_one_out":
            return leave_one_out(returns_PG, learnable_PG)[..., None], state
        if self.baseline == "greedy":
            return rollouts.filled("greedy_scores_P")[0][:, None, None], state
        if self.baseline == "value":
            return rollouts.filled("values_PGT")[0], state
        return torch.zeros_like(returns_PG)[..., None], state

    def loss(self, outputs: Outputs, prepared: Rollouts) -> tuple[Tensor, dict[str, Tensor]]:
        advantages_PGT, returns_PGT = prepared.filled("advantages_PGT", "returns_PGT")
        mask_PGT, totals = prepared.loss_mask_PGT, prepared.totals
        loss = policy_gradient_loss(outputs.logps_PGT, advantages_PGT, mask_PGT, self.aggregation, totals)
        metrics = {"policy_loss": loss.detach()}
        if outputs.values_PGT is not None:
            fit = value_loss(outputs.values_PGT, returns_PGT, mask_PGT, totals=totals)
            loss = loss + self.value_coefficient * fit
            metrics["value_loss"] = fit.detach()
        return loss, metrics
