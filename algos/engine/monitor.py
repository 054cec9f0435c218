"""What is logged about every iteration, the same for every algorithm (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from algos.engine.algorithm import State
from algos.engine.rollouts import Rollouts
from algos.losses import kl_estimate


@torch.no_grad()
def describe(rollouts: Rollouts, prepared: Rollouts, own: State) -> dict[str, float]:
    """Statistics of a batch before its updates. Rewards are scores before any KL; KL in nats a response."""
    sampled_PGT = rollouts.sampled_PGT
    row: dict[str, Tensor | float] = {
        "length/train": rollouts.lengths_PG.float().mean(),
        "eos_rate/train": rollouts.ended_PG.float().mean(),
    }
    sampled = rollouts.sampler_logps_PGT is not None
    if sampled and rollouts.scores_PG is not None:
        unscored_PG = rollouts.scores_PG.isnan()
        scores = rollouts.scores_PG[~unscored_PG]
        row |= {"reward/train": scores.mean(), "reward_std/train": scores.std(correction=0)}
        if bool(unscored_PG.any()):
            row["unscored/train"] = unscored_PG.float().mean()
    # The sampler's are the same but for the rounding of cached decoding; of recorded responses there are none.
    logps_PGT = rollouts.sampler_logps_PGT if rollouts.logps_PGT is None else rollouts.logps_PGT
    if logps_PGT is not None and rollouts.ref_logps_PGT is not None:
        kl_PGT = torch.where(sampled_PGT, kl_estimate(logps_PGT, rollouts.ref_logps_PGT), 0.0)
        row["kl/train"] = kl_PGT.sum(-1).mean()
    if sampled and rollouts.logps_PGT is not None and rollouts.sampler_logps_PGT is not None:
        gap_PGT = (rollouts.logps_PGT - rollouts.sampler_logps_PGT).abs()
        row["sampler_gap_max"] = gap_PGT[sampled_PGT].max() if bool(sampled_PGT.any()) else 0.0
    if prepared.advantages_PGT is not None and bool(prepared.loss_mask_PGT.any()):
        advantages = before_whitening(prepared)[prepared.loss_mask_PGT]
        row |= {"advantage_mean": advantages.mean(), "advantage_std": advantages.std(correction=0)}
        if prepared.values_PGT is not None and prepared.returns_PGT is not None:
            values, returns = (x[prepared.loss_mask_PGT] for x in (prepared.values_PGT, prepared.returns_PGT))
            row["explained_variance"] = explained_variance(values, returns)
    row |= {name: value for name, value in own.items() if value.numel() == 1}
    return numbers(row)


def numbers(row: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Tensors of one number as numbers. Those of a kind are read together: each that is read is waited for on a GPU."""
    alike: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
    for name, value in row.items():
        if isinstance(value, Tensor):
            alike.setdefault((value.device, value.dtype), {})[name] = value.reshape(())
    read = {
        name: number
        for group in alike.values()
        for name, number in zip(group, torch.stack(list(group.values())).tolist(), strict=True)
    }
    return {name: float(read.get(name, value)) for name, value in row.items()}


def before_whitening(prepared: Rollouts) -> Tensor:
    """R − V where there is a value function: whitened advantages would always have mean 0 and spread 1."""
    if prepared.values_PGT is not None and prepared.returns_PGT is not None:
        return prepared.returns_PGT - prepared.values_PGT
    return prepared.filled("advantages_PGT")[0]


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 − Var(R − V)/Var(R): 1 is a perfect value function, 0 one no better than a constant. NaN where returns are all
    the same but for rounding, as there is no variance to explain."""
    variance = returns.var(correction=0)
    rounding = torch.finfo(returns.dtype).eps * returns.abs().max().clamp(min=1.0)
    explained = 1 - (returns - values).var(correction=0) / variance
    return torch.where(variance.sqrt() > 8 * rounding, explained, torch.nan)


def add_metrics(total: dict[str, Tensor], part: dict[str, Tensor]) -> None:
    """Adds a micro-batch's share; names ending in `_max` keep the largest."""
    for name, given in part.items():
        value = torch.as_tensor(given)  # an algorithm may log plain numbers
        if name not in total:
            total[name] = value
        else:
            total[name] = torch.maximum(total[name], value) if name.endswith("_max") else total[name] + value


def mean_of_steps(steps: list[dict[str, float]]) -> dict[str, float]:
    """The mean over an iteration's optimizer steps; of maxima the largest."""
    names = steps[0] if steps else {}
    return {
        name: max(step[name] for step in steps)
        if name.endswith("_max")
        else sum(step[name] for step in steps) / len(steps)
        for name in names
    }
