"""Prompts → Rollouts: our own decode loop, each draw the inverse CDF at a number that belongs to its place.

A sample depends on (seed, prompt, g, t) and the model alone, not on its batch, on the rows beside it or on
the number of workers, so all arms are evaluated with the same random numbers and resuming is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from algos.engine.algorithm import require
from algos.engine.forward import accepts, positions, precision, upcast
from algos.engine.policy import Policy
from algos.engine.rollouts import Rollouts, join_right, pad_left
from algos.engine.seeding import uniforms

MAX_ROWS = 256  # responses decoded at once


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn. The same for every arm of a comparison."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    group_size: int = 4
    """Responses a prompt."""
    prompts_per_iteration: int = 16
    greedy_prefix: int = 0
    """The first so many tokens are greedy, the rest sampled; they carry no loss."""
    top_p: float = 1.0
    top_k: int = 0
    """Filters (0 and 1.0: off) are for evaluation: in training they would make ratios meaningless."""
    missing_eos_penalty: float = 0.0
    """Subtracted, once, from the training reward of a response that hits the length limit."""

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, "max_new_tokens", "at least 1", self.max_new_tokens)
        require(self.temperature > 0, "temperature", "above 0", self.temperature)
        require(self.group_size >= 1, "group_size", "at least 1", self.group_size)
        require(
            self.prompts_per_iteration >= 1, "prompts_per_iteration", "at least 1", self.prompts_per_iteration
        )
        require(
            0 <= self.greedy_prefix < self.max_new_tokens,
            "greedy_prefix",
            f"in [0, max_new_tokens = {self.max_new_tokens})",
            self.greedy_prefix,
        )
        require(0 < self.top_p <= 1, "top_p", "in (0, 1]", self.top_p)
        require(self.top_k >= 0, "top_k", "at least 0", self.top_k)
        require(self.missing_eos_penalty >= 0, "missing_eos_penalty", "at least 0", self.missing_eos_penalty)


@torch.no_grad()
def sample(
    policy: Policy,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    seed: int,
    *,
    group_size: int | None = None,
    greedy: bool = False,
) -> Rollouts:
    """`group_size` responses to each prompt (token ids), without scores; `sampler_logps_PGT` is filled.

    The log-probabilities are those of the distribution drawn from, at `sampling.temperature`.
    """
    G = 1 if greedy else group_size or sampling.group_size
    U_PGT = torch.from_numpy(uniforms(seed, prompts, G, sampling.max_new_tokens))
    chunk = max(1, MAX_ROWS // G)
    parts = [
        _decode(policy, prompts[i : i + chunk], U_PGT[i : i + chunk], sampling, greedy)
        for i in range(0, len(prompts), chunk)
    ]
    ids_PGT, mask_PGT = (
        join_right([part[0] for part in parts], policy.pad_id),
        join_right([part[1] for part in parts]),
    )
    prompt_ids_PL, prompt_mask_PL = pad_left(list(prompts), policy.pad_id)
    fixed_PGT = None
    if sampling.greedy_prefix and not greedy:
        fixed_PGT = (
            torch.arange(ids_PGT.shape[-1], device=ids_PGT.device) < sampling.greedy_prefix
        ) & mask_PGT
    return Rollouts(
        prompt_ids_PL=prompt_ids_PL.to(policy.device),
        prompt_mask_PL=prompt_mask_PL.to(policy.device),
        response_ids_PGT=ids_PGT,
        mask_PGT=mask_PGT,
        ended_PG=torch.cat([part[3] for part in parts]),
        fixed_PGT=fixed_PGT,
        sampler_logps_PGT=join_right([part[2] for part in parts]),
        max_tokens=sampling.max_new_tokens,
    )


def _decode(
    policy: Policy, prompts: Sequence[list[int]], U_PGT: Tensor, sampling: Sampling, greedy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(ids, mask, log-probs) [p, G, T] and ended [p, G] of one batch. Each prompt is encoded once for its
    G responses; rows that have ended leave the batch."""
    device, (p, G, T) = policy.device, U_PGT.shape
    U_BT, eos = U_PGT.flatten(0, 1).to(device), torch.tensor(policy.eos_ids, device=device)
    ids_BT = torch.full((p * G, T), policy.pad_id, device=device)
    mask_BT = torch.zeros(p * G, T, dtype=torch.bool, device=device)
    logps_BT = torch.zeros(p * G, T, device=device)
    ended_B = torch.zeros(p * G, dtype=torch.bool, device=device)

    stepper = _Stepper(policy, prompts, G)
    rows_B = torch.arange(p * G, device=device)  # which response each row of the running batch is
    logits_BV = stepper.prefill()
    for t in range(T):
        logps_BV = filtered(upcast(logits_BV) / sampling.temperature, sampling).log_softmax(-1)
        token_B = (
            logps_BV.argmax(-1)
            if greedy or t < sampling.greedy_prefix
            else inverse_cdf(logps_BV, U_BT[rows_B, t])
        )
        ids_BT[rows_B, t] = token_B
        mask_BT[rows_B, t] = True
        logps_BT[rows_B, t] = logps_BV.gather(-1, token_B[:, None]).squeeze(-1).float()
        over_B = torch.isin(token_B, eos)
        ended_B[rows_B[over_B]] = True
        if t + 1 == T or bool(over_B.all()):
            break
        if bool(over_B.any()):
            going = (~over_B).nonzero().squeeze(-1)
            rows_B, token_B = rows_B[going], token_B[going]
            stepper.keep(going)
        logits_BV = stepper.step(token_B)
    shape = (p, G)
    return (
        ids_BT[:, : t + 1].unflatten(0, shape),
        mask_BT[:, : t + 1].unflatten(0, shape),
        logps_BT[:, : t + 1].unflatten(0, shape),
        ended_B.unflatten(0, shape),
    )


class _Stepper:
    """The model with its key-value cache, one token a step."""

    def __init__(self, policy: Policy, prompts: Sequence[list[int]], group_size: int) -> None:
        self.model: nn.Module = policy.model
        self.dtype = policy.dtype
        self.group_size = group_size
        ids_PL, mask_PL = pad_left(list(prompts), policy.pad_id)
        self.ids, self.mask = ids_PL.to(policy.device), mask_PL.to(policy.device)
        self.cache = DynamicCache(config=policy.inner.config)

    def prefill(self) -> Tensor:
        """Next-token logits [B, V] after the prompts, every prompt repeated for its group."""
        logits_PV = self._run(self.ids, positions(self.mask))
        self.cache.batch_repeat_interleave(self.group_size)
        self.mask = self.mask.repeat_interleave(self.group_size, dim=0)
        return logits_PV.repeat_interleave(self.group_size, dim=0)

    def step(self, token_B: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=-1)
        return self._run(token_B[:, None], positions(self.mask)[:, -1:])

    def keep(self, rows: Tensor) -> None:
        """Drops the other rows from the batch and the cache."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]

    def _run(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        inputs = {
            "input_ids": ids,
            "attention_mask": self.mask.long(),
            "past_key_values": self.cache,
            "use_cache": True,
        }
        if accepts(self.model, "position_ids"):
            inputs["position_ids"] = position_ids
        if accepts(self.model, "logits_to_keep"):
            inputs["logits_to_keep"] = 1
        with precision(ids.device, self.dtype):
            logits: Tensor = self.model(**inputs).logits[:, -1]
        return logits


def filtered(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Logits with everything outside top-k and the nucleus (Holtzman et al. 2020) at −inf."""
    if sampling.top_k and sampling.top_k < logits_BV.shape[-1]:
        smallest_kept = logits_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < smallest_kept, -torch.inf)
    if sampling.top_p < 1:
        ordered, index = logits_BV.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        outside = torch.zeros_like(ordered, dtype=torch.bool).scatter(-1, index, before >= sampling.top_p)
        logits_BV = logits_BV.masked_fill(outside, -torch.inf)
    return logits_BV


def inverse_cdf(logps_BV: Tensor, U_B: Tensor) -> Tensor:
    """The token at which the cumulative distribution first exceeds U. [B, V], [B] in (0, 1) → [B]."""
    cdf_BV = logps_BV.double().exp().cumsum(-1)
    # Scaled by its own end, as rounding leaves it a little off 1; right=True skips tokens of probability 0.
    target_B1 = (U_B * cdf_BV[:, -1])[:, None]
    return torch.searchsorted(cdf_BV, target_B1, right=True).squeeze(-1).clamp(max=logps_BV.shape[-1] - 1)
