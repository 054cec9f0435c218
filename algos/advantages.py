"""Pure estimates of advantage: baselines over the group axis, GAE over the token axis, whitening.

Shape legend: `engine/rollouts.py`. Masks are True on tokens that count and contiguous from the left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from algos.losses import kl_estimate


def token_rewards(
    scores_PG: Tensor,
    logps_PGT: Tensor,
    ref_logps_PGT: Tensor,
    mask_PGT: Tensor,
    loss_mask_PGT: Tensor,
    beta: float | Tensor,
) -> Tensor:
    """r_t = −β·(log π − log π_ref), detached, plus the score at the last real token. → [P, G, T].

    k1 in the reward is the one use of an estimator whose expected policy gradient is exactly that of
    β·KL(π‖π_ref). The score sits at the last attended token, EOS or not: a truncated response is
    terminal too.
    """
    rewards_PGT = torch.where(
        loss_mask_PGT, -beta * kl_estimate(logps_PGT, ref_logps_PGT, "k1"), 0.0
    ).detach()
    last_PG1 = (mask_PGT.sum(-1, keepdim=True) - 1).clamp(min=0)
    return rewards_PGT.scatter_add(-1, last_PG1, scores_PG[..., None].to(rewards_PGT.dtype))


def reward_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """Σ_{s ≥ t} r_s, undiscounted. [..., T] → [..., T], zero off the mask."""
    rewards = torch.where(mask, rewards, 0.0)
    return torch.where(mask, rewards.flip(-1).cumsum(-1).flip(-1), 0.0)


def leave_one_out(returns: Tensor, scored: Tensor | None = None) -> Tensor:
    """The mean return of the *other* responses to the same prompt: (ΣR − R_i)/(G − 1). [..., G] → [..., G].

    Independent of response i, hence unbiased as its baseline (Kool et al. 2019; Ahmadian et al. 2024, RLOO).
    Only `scored` responses count; what stands at the others, and where no other is left, means nothing.
    """
    group = returns.shape[-1]
    if group < 2:
        raise ValueError(
            f"leave_one_out needs at least 2 responses a prompt; got {group}. Set group_size to 2 or more."
        )
    if scored is None:
        scored = torch.ones_like(returns, dtype=torch.bool)
    counted = torch.where(scored, returns, 0.0)
    others = (scored.sum(-1, keepdim=True) - 1).clamp(min=1)
    return (counted.sum(-1, keepdim=True) - counted) / others


def group_mean_std(x: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and sample standard deviation (n − 1) of each group, [..., G] → ([..., 1], [..., 1]).

    Only `counted` entries count; of fewer than two the deviation is 0, of none both are.
    """
    if counted is None:
        counted = torch.ones_like(x, dtype=torch.bool)
    count = counted.sum(-1, keepdim=True)
    mean = torch.where(counted, x, 0.0).sum(-1, keepdim=True) / count.clamp(min=1)
    squares = torch.where(counted, (x - mean).square(), 0.0).sum(-1, keepdim=True)
    return mean, (squares / (count - 1).clamp(min=1)).sqrt()


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16). All [..., T] → (advantages, returns).

    δ_t = r_t + γ·V_{t+1} − V_t with V = 0 after the last token of the mask; A_t = δ_t + γλ·A_{t+1};
    returns = A + V. V_t is the value predicted where token t is predicted. Zero off the mask.
    """
    device = values.device
    # On a GPU to start seven operations a token takes far longer than to compute them, and than to move it all.
    rewards, values, mask = rewards.cpu(), values.cpu(), mask.cpu()
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    later = torch.zeros_like(values[..., 0])
    for t in reversed(range(values.shape[-1])):
        following = values[..., t + 1] if t + 1 < values.shape[-1] else torch.zeros_like(later)
        delta = rewards[..., t] + gamma * following - values[..., t]
        later = torch.where(mask[..., t], delta + gamma * lam * later, 0.0)
        advantages[..., t] = later
    return advantages.to(device), torch.where(mask, advantages + values, 0.0).to(device)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """(x − mean)·rsqrt(var + 1e-8) over the masked entries of the whole tensor; population variance.

    With `shift_mean=False` the mean is put back, so that only the scale changes. Zero off the mask.
    """
    count = mask.sum().clamp(min=1)
    mean = torch.where(mask, x, 0.0).sum() / count
    variance = torch.where(mask, (x - mean).square(), 0.0).sum() / count
    whitened = (x - mean) * torch.rsqrt(variance + 1e-8)
    return torch.where(mask, whitened if shift_mean else whitened + mean, 0.0)
