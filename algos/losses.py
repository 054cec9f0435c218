"""Pure losses on tensors. No model, no state: numbers in, numbers out. Shape legend: `engine/rollouts.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Aggregation = Literal["sequence_sum", "token_mean", "sequence_mean", "constant"]
DPOFormula = Literal["sigmoid", "robust", "hinge", "ipo"]
SMOOTHED: tuple[DPOFormula, ...] = ("sigmoid", "robust")
"""Those that label smoothing has a meaning in."""
KLEstimator = Literal["k1", "k2", "k3"]

MAX_LOG_RATIO = 20.0  # e^20 is finite in fp32; beyond it one token would decide the whole update


@dataclass(frozen=True)
class Totals:
    """What one optimizer step averages over, so that no result depends on the micro-batch size.

    A mean of micro-batch means is wrong where lengths differ: every micro-batch divides its sums by
    these totals of the whole step instead, and the parts add up.
    """

    sequences: int
    tokens: int
    max_tokens: int


def aggregate(x_PGT: Tensor, mask_PGT: Tensor, how: Aggregation, totals: Totals | None = None) -> Tensor:
    """Masked sum of x over one micro-batch, divided by what the whole optimizer step averages over. [..., T] → scalar.

    `sequence_sum` divides by the number of sequences (unbiased), `token_mean` by the number of tokens,
    `sequence_mean` averages within each sequence first (a 1/length bias), `constant` divides by
    sequences times the longest possible response (unbiased up to a constant; Liu et al. 2025).
    Raises ValueError where x and mask differ in shape.
    """
    if x_PGT.shape != mask_PGT.shape:
        raise ValueError(
            f"what is aggregated must have the mask's shape; got {[*x_PGT.shape]} and {[*mask_PGT.shape]}. Expand it."
        )
    x_PGT = torch.where(mask_PGT, x_PGT, 0.0)
    if totals is None:
        rows = mask_PGT[..., 0].numel()
        totals = Totals(rows, int(mask_PGT.sum()), mask_PGT.shape[-1])
    if how == "sequence_sum":
        return x_PGT.sum() / totals.sequences
    if how == "token_mean":
        return x_PGT.sum() / max(totals.tokens, 1)
    if how == "sequence_mean":
        return (x_PGT.sum(-1) / mask_PGT.sum(-1).clamp(min=1)).sum() / totals.sequences
    if how == "constant":
        return x_PGT.sum() / (totals.sequences * totals.max_tokens)
    raise ValueError(f"aggregation must be sequence_sum, token_mean, sequence_mean or constant; got {how!r}.")


def log_ratio(logps: Tensor, other_logps: Tensor) -> Tensor:
    """log π − log π' in fp32, clamped to ±20 so that one token cannot overflow the ratio."""
    return _difference(logps, other_logps).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _difference(logps: Tensor, other_logps: Tensor) -> Tensor:
    """log π − log π' in fp32, as it is."""
    return (logps.float() if logps.dtype in (torch.bfloat16, torch.float16) else logps) - other_logps


def kl_estimate(logps: Tensor, ref_logps: Tensor, estimator: KLEstimator = "k1") -> Tensor:
    """Per-token estimates of KL(π‖π_ref) for tokens sampled from π (Schulman 2020), in nats.

    With Δ = log π − log π_ref: k1 = Δ (unbiased), k2 = Δ²/2 (biased, small variance),
    k3 = e^{−Δ} − 1 + Δ (unbiased in value, never negative). k3's Δ is clamped to ±20 (`log_ratio`), as it has an
    exponential; k1's and k2's is not, which would only bias them. Which gradient each one has as a reward
    or as a loss is another matter: see docs/algorithms.md.
    """
    if estimator == "k1":
        return _difference(logps, ref_logps)
    if estimator == "k2":
        return 0.5 * _difference(logps, ref_logps).square()
    if estimator == "k3":
        delta = log_ratio(logps, ref_logps)
        return torch.expm1(-delta) + delta
    raise ValueError(f"estimator must be k1, k2 or k3; got {estimator!r}.")


def _require_tokens(logps: Tensor, **others: Tensor) -> None:
    """Raises ValueError where something has not an axis for each of the log-probabilities': numbers a response, [B],
    would go along the tokens of [B, T] where B = T."""
    for name, x in others.items():
        if x.dim() != logps.dim():
            raise ValueError(
                f"{name} must have as many axes as {[*logps.shape]}; got {[*x.shape]}. Give it a value a token, or [..., None] "
                "for one a response."
            )


def policy_gradient_loss(
    logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    aggregation: Aggregation = "sequence_sum",
    totals: Totals | None = None,
) -> Tensor:
    """REINFORCE: −(1/B)·Σ_i Σ_t A_it·log π(y_it) (Williams 1992). logps [..., T] in nats, advantages likewise or, one a
    response, [..., 1] → scalar."""
    _require_tokens(logps, advantages=advantages)
    return aggregate(-advantages.detach() * logps, mask, aggregation, totals)


def ppo_token_losses(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    clip_range: float,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
) -> Tensor:
    """max(−A·ρ, −A·clip(ρ, 1−ε, 1+ε_high)) for each token (Schulman et al. 2017, eq. 7), not reduced.

    `dual_clip` c > 1 bounds the loss of negative advantages by −c·A (Ye et al. 2020, eq. 5).
    """
    _require_tokens(logps, old_logps=old_logps, advantages=advantages)
    ratio = log_ratio(logps, old_logps).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + (clip_range if clip_range_high is None else clip_range_high))
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    if dual_clip is not None:
        losses = torch.where(advantages < 0, torch.minimum(losses, -dual_clip * advantages), losses)
    return losses


def ppo_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_range: float = 0.2,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
    aggregation: Aggregation = "token_mean",
    totals: Totals | None = None,
) -> Tensor:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7). All inputs [..., T] → scalar."""
    losses = ppo_token_losses(
        logps, old_logps.detach(), advantages.detach(), clip_range, clip_range_high, dual_clip
    )
    return aggregate(losses, mask, aggregation, totals)


@torch.no_grad()
def ratio_metrics(
    logps: Tensor,
    old_logps: Tensor,
    mask: Tensor,
    clip_range: float = 0.2,
    clip_range_high: float | None = None,
    totals: Totals | None = None,
) -> dict[str, Tensor]:
    """How far the policy has moved from the one that sampled, to be logged beside a clipped loss; all inputs [..., T].

    `clip_fraction`: share of tokens whose ratio ρ lies outside 1 − ε … 1 + ε_high; `approx_kl` [nats a token]:
    ρ − 1 − log ρ, the k3 of KL(old‖new), as the tokens were drawn from the old policy; `ratio_max`: the largest ρ, at
    least 1 where something is masked. The first two are shares of the step's averages (`Totals`), which add up.
    """
    log_ratios = torch.where(mask, log_ratio(logps, old_logps), 0.0)
    ratios = log_ratios.exp()
    high = clip_range if clip_range_high is None else clip_range_high
    outside = (ratios < 1 - clip_range) | (ratios > 1 + high)
    return {
        "clip_fraction": aggregate(outside.to(ratios.dtype), mask, "token_mean", totals),
        # Not kl_estimate(old_logps, logps, "k3"), which rounds otherwise: logged numbers would move.
        "approx_kl": aggregate(ratios - 1 - log_ratios, mask, "token_mean", totals),
        "ratio_max": ratios.max(),
    }


def value_loss(
    values: Tensor,
    returns: Tensor,
    mask: Tensor,
    old_values: Tensor | None = None,
    clip_range: float | None = None,
    totals: Totals | None = None,
) -> Tensor:
    """½·mean (V−R)² over tokens, or ½·mean max((V−R)², (clip(V, V_old±ε)−R)²) with a `clip_range`.

    The clipped form is the one of OpenAI's baselines, kept by every reference implementation of PPO on
    language models (Huang et al. 2022, detail 9). [..., T] → scalar; the values alone carry gradient.
    """
    _require_tokens(values, returns=returns)
    returns = returns.detach()
    errors = (values - returns).square()
    if clip_range is not None:
        if old_values is None:
            raise ValueError("value_loss with a clip_range needs old_values; got none.")
        old_values = old_values.detach()
        kept_near = old_values + (values - old_values).clamp(-clip_range, clip_range)
        errors = torch.maximum(errors, (kept_near - returns).square())
    return 0.5 * aggregate(errors, mask, "token_mean", totals)


def sequence_logps(logps_PGT: Tensor, mask_PGT: Tensor, average: bool = False) -> Tensor:
    """[P, G, T] → [P, G]: the log-probability of each response in nats, or its mean a token."""
    sums_PG = torch.where(mask_PGT, logps_PGT, 0.0).sum(-1)
    return sums_PG / mask_PGT.sum(-1).clamp(min=1) if average else sums_PG


def dpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float,
    loss_type: DPOFormula = "sigmoid",
    label_smoothing: float | Tensor = 0.0,
) -> Tensor:
    """The DPO family on [N] sequence log-probabilities (nats) → [N] losses, not reduced.

    With h = (log π_w − log ref_w) − (log π_l − log ref_l) and z = βh:
    `sigmoid`  −(1−e)·log σ(z) − e·log σ(−z) (Rafailov et al. 2023, eq. 7; e: Mitchell's conservative DPO);
    `robust`   ((1−e)(−log σ(z)) − e(−log σ(−z)))/(1−2e) (Chowdhury et al. 2024, eq. 12);
    `hinge`    relu(1 − z) (Zhao et al. 2023, SLiC with a reference);
    `ipo`      (h − 1/(2β))² (Azar et al. 2023, eq. 17), where β is the paper's τ.
    e is `label_smoothing`, one for all pairs or, [N], one for each: soft labels P(w ≻ l) = 1 − e.
    Whether log-probabilities are sums over tokens or means is the caller's business (`sequence_logps`); for
    reference-free variants pass zeros as the reference. Raises ValueError for label smoothing where it has no meaning.
    """
    if loss_type not in get_args(DPOFormula):
        raise ValueError(
            f"loss_type must be one of {', '.join(get_args(DPOFormula))}; got {loss_type!r}. Losses of averages, such as "
            "ipo_average, are these of what sequence_logps(…, average=True) gives: 'ipo'."
        )
    smoothed = isinstance(label_smoothing, Tensor) or label_smoothing != 0
    if smoothed and loss_type not in SMOOTHED:
        raise ValueError(
            f"label_smoothing must be 0 for loss_type {loss_type!r}, which has no smoothed form; got {label_smoothing}."
        )
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    z, e = beta * h, label_smoothing
    if loss_type == "sigmoid":
        return -(1 - e) * F.logsigmoid(z) - e * F.logsigmoid(-z)
    if loss_type == "robust":
        return (-(1 - e) * F.logsigmoid(z) + e * F.logsigmoid(-z)) / (1 - 2 * e)
    if loss_type == "hinge":
        return torch.relu(1 - z)
    return (h - 1 / (2 * beta)).square()
