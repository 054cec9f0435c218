"""One token a step: the model with its cache, the filters of nucleus and top-k, the draw by inverse CDF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from algos.engine.attention import padding_bias
from algos.engine.cache import growing_cache
from algos.engine.direct import direct
from algos.engine.inputs import accepts, positions, precision
from algos.engine.layers import Direct
from algos.engine.policy import Policy
from algos.engine.rollouts import pad_left

if TYPE_CHECKING:
    from algos.engine.settings import Sampling


class Stepper:
    """Next-token logits [B, V] of a running batch: each prompt is read once for its G responses."""

    def __init__(self, policy: Policy, prompts: Sequence[list[int]], group_size: int) -> None:
        self.model: Any = policy.model
        self.dtype = policy.dtype
        self.group_size = group_size
        ids_PL, mask_PL = pad_left(list(prompts), policy.pad_id)
        self.ids, self.mask = ids_PL.to(policy.device), mask_PL.to(policy.device)
        self.cache_name = _cache_name(self.model)
        self.cache: Any = growing_cache(policy.inner.config) if self.cache_name else None
        self.direct = direct(self.model)

    def prefill(self) -> Tensor:
        """After the prompts, every prompt repeated for its group."""
        logits_PV = self._run(self.ids)
        group_B = torch.arange(len(self.ids), device=self.ids.device).repeat_interleave(self.group_size)
        if self.direct is not None:
            self.position, self.bias = self.mask.sum(-1), padding_bias(self.mask[:, None], logits_PV.dtype)
        self.keep(group_B)
        return logits_PV[group_B]

    def step(self, token_B: Tensor) -> Tensor:
        """After one more token in every row."""
        if self.direct is not None:
            return self._run_layers(self.direct, token_B)
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=-1)
        self.ids = (
            token_B[:, None] if self.cache is not None else torch.cat([self.ids, token_B[:, None]], dim=-1)
        )
        return self._run(self.ids)

    def keep(self, rows: Tensor) -> None:
        """Makes these rows, some of them perhaps several times, the batch."""
        self.ids, self.mask = self.ids[rows], self.mask[rows]
        if self.direct is not None:
            self.position, self.bias = self.position[rows], self.bias[rows]
        if self.cache is not None:
            # As beam search does: the one selection that layers of every kind have (attention, sliding
            # windows, convolutions, recurrent states).
            self.cache.reorder_cache(rows)

    def _run_layers(self, direct: Direct, token_B: Tensor) -> Tensor:
        self.bias = F.pad(self.bias, (0, 1))
        with precision(token_B.device, self.dtype):
            logits_BV = direct.step(token_B, self.position, self.bias, self.cache)
        self.position = self.position + 1
        return logits_BV

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
        with precision(ids.device, self.dtype):
            logits: Tensor = self.model(**inputs).logits[:, -1]
        return logits


def _cache_name(model: Any) -> str | None:
    """What the forward calls its cache; None for models without one, which read the whole text again."""
    return next((name for name in ("past_key_values", "cache_params") if accepts(model, name)), None)


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
    cdf_BV = logps_BV.exp().cumsum(-1, dtype=torch.float64)
    # Scaled by its own end, as rounding leaves it a little off 1; right=True skips tokens of probability 0.
    target_B1 = (U_B * cdf_BV[:, -1])[:, None]
    return torch.searchsorted(cdf_BV, target_B1, right=True).squeeze(-1).clamp(max=logps_BV.shape[-1] - 1)
