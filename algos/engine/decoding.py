"""One token a step: a forward pass, the filters of nucleus and top-k, and the draw by inverse CDF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from algos.engine.fast.cache import growing_cache
from algos.engine.fast.direct import direct
from algos.engine.fast.graphs import GraphStepper
from algos.engine.fast.stepping import LayerStepper
from algos.engine.inputs import accepts, aligned, positions
from algos.engine.models.policy import Policy
from algos.engine.rollouts import pad_left

SMALL_VOCABULARY = 2**12
"""Tokens in the largest vocabulary from which a GPU draws without blocks."""
BLOCK = 2**9
"""Tokens in a block of a larger one."""


class Stepper(Protocol):
    """A running batch, of which a row is a response; in the beginning they are ordered by prompt."""

    def prefill(self) -> Tensor:
        """Next-token logits [B, V] at the prompts' ends, every prompt repeated for its group."""
        ...

    def step(self, token_B: Tensor) -> Tensor:
        """Next-token logits [B, V] after one more token in every row."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Makes these rows the batch."""
        ...


def stepper(policy: Policy, prompts: Sequence[list[int]], group_size: int, tokens: int) -> Stepper:
    """A batch of prompts, each with so many responses of at most so many tokens: through the model's layers where they
    are known, else through its own forward. For a block without gradient in which neither weights nor autocast
    change."""
    layers = direct(policy.model)
    ids_PL, mask_PL = (x.to(policy.device) for x in pad_left(list(prompts), policy.pad_id))
    group_B = torch.arange(len(ids_PL), device=ids_PL.device).repeat_interleave(group_size)
    if layers is None:
        return ModelStepper(policy, ids_PL, mask_PL, group_B)
    if policy.device.type == "cuda":
        return GraphStepper(layers, *aligned(ids_PL, mask_PL, policy.model), group_B, tokens)
    return LayerStepper(layers, ids_PL, mask_PL, group_B)


class ModelStepper:
    """Through the model's own forward, with a cache if it has one."""

    def __init__(self, policy: Policy, ids_PL: Tensor, mask_PL: Tensor, group_B: Tensor) -> None:
        self.model: Any = policy.model
        self.ids, self.mask, self.group = ids_PL, mask_PL, group_B
        self.cache_name = _cache_name(self.model)
        self.cache: Any = growing_cache(policy.inner.config) if self.cache_name else None

    def prefill(self) -> Tensor:
        logits_PV = self._run(self.ids)
        self.keep(self.group)
        return logits_PV[self.group]

    def step(self, token_B: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=-1)
        self.ids = (
            token_B[:, None] if self.cache is not None else torch.cat([self.ids, token_B[:, None]], dim=-1)
        )
        return self._run(self.ids)

    def keep(self, rows: Tensor) -> None:
        self.ids, self.mask = self.ids[rows], self.mask[rows]
        if self.cache is not None:
            # As beam search does: the one selection that layers of every kind have (attention, sliding
            # windows, convolutions, recurrent states).
            self.cache.reorder_cache(rows)

    def _run(self, ids: Tensor) -> Tensor:
        new = ids.shape[1]
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": self.mask.long()}
        if self.cache_name:
            inputs |= {self.cache_name: self.cache, "use_cache": True}
        if (
            self.cache_name == "cache_params"
        ):  # state-space models mask what they read, not what they remember
            inputs["attention_mask"] = inputs["attention_mask"][:, -new:]
        if accepts(self.model, "position_ids"):
            inputs["position_ids"] = positions(self.mask)[:, -new:]
        if accepts(self.model, "logits_to_keep"):
            inputs["logits_to_keep"] = 1
        logits: Tensor = self.model(**inputs).logits[:, -1]
        return logits


def _cache_name(model: Any) -> str | None:
    """What the forward calls its cache; None for models without one, which read the whole text again."""
    return next((name for name in ("past_key_values", "cache_params") if accepts(model, name)), None)


def filtered(logits_BV: Tensor, top_p: float, top_k: int) -> Tensor:
    """Logits with everything outside top-k and the nucleus (Holtzman et al. 2020) at −inf."""
    if top_k and top_k < logits_BV.shape[-1]:
        smallest_kept = logits_BV.topk(top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < smallest_kept, -torch.inf)
    if top_p < 1:
        ordered, index = logits_BV.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        outside = torch.zeros_like(ordered, dtype=torch.bool).scatter(-1, index, before >= top_p)
        logits_BV = logits_BV.masked_fill(outside, -torch.inf)
    return logits_BV


def inverse_cdf(logps_BV: Tensor, U_B: Tensor) -> Tensor:
    """The token at which the cumulative distribution first exceeds U. [B, V], [B] in (0, 1) → [B]."""
    probs_BV = logps_BV.exp()
    if probs_BV.is_cuda and probs_BV.shape[-1] > SMALL_VOCABULARY:
        return search_in_blocks(probs_BV, U_B)
    return _search(probs_BV, U_B)[0].squeeze(-1)


def search_in_blocks(probs_BV: Tensor, U_B: Tensor) -> Tensor:
    """The same from probabilities, [B, V], [B] → [B]: first the block of the vocabulary, then the token in it. A GPU
    takes a cumulative sum a row at a time: over a whole vocabulary of 152 thousand that is a tenth of a half-billion
    model's step (docs/benchmarks.md)."""
    probs_BWC = F.pad(probs_BV, (0, -probs_BV.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    sums_BW = probs_BWC.sum(-1, dtype=torch.float64)
    block_B1, cdf_BW, target_B1 = _search(sums_BW, U_B)
    left_B1 = (cdf_BW.gather(-1, block_B1) - target_B1) / sums_BW.gather(-1, block_B1)
    block_B = block_B1.squeeze(-1)
    probs_BC = probs_BWC[torch.arange(len(block_B), device=block_B.device), block_B]
    token_B1, *_ = _search(probs_BC, (1 - left_B1.squeeze(-1)).clamp(0, 1 - 2**-53))
    return block_B * BLOCK + token_B1.squeeze(-1)


def _search(probs_BC: Tensor, U_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the cumulative sum first exceeds U's share of the total, [B, 1]; the cumulative sums, [B, C]; and that
    share, [B, 1]."""
    cdf_BC = probs_BC.cumsum(-1, dtype=torch.float64)
    # Scaled by its own end, as rounding leaves it a little off 1; right=True skips tokens of probability 0.
    target_B1 = (U_B * cdf_BC[:, -1])[:, None]
    found_B1 = torch.searchsorted(cdf_BC, target_B1, right=True).clamp(max=probs_BC.shape[-1] - 1)
    return found_B1, cdf_BC, target_B1
