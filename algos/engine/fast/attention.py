"""What tokens read of each other: those of prompts, themselves; those of responses, their prompt and themselves.

On a CPU torch's fused kernel multiplies short texts in pieces too small for its matrix library; written as products
over all of them at once, attention takes two thirds to four fifths of the time (docs/benchmarks.md), and less where they
are in half precision, in which the kernel is slow. Longer ones are the kernel's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from algos.engine.fast.batched import Products
from algos.engine.fast.places import Places
from algos.engine.rollouts import Rollouts

SHORT = 2**15
"""Attention logits of a text in one head, up to which products are faster than the kernel."""
MOST_KEPT = 4
"""Tokens of a text a unit of a head's width: a layer's probabilities are then at most so many times its width."""
KEPT = 2**23
"""Numbers, 32 MiB of them in fp32, that the probabilities of all a model's layers may be together before the backward
pass makes them again, which takes a hundredth or two of an update (docs/benchmarks.md)."""


@dataclass(frozen=True)
class Texts:
    """Which of a batch's tokens read which others."""

    places: Places
    prompts_P1LL: Tensor
    """What attention adds to its logits: 0 where a token may be read, else −inf."""
    responses_B1NS: Tensor
    """Likewise, S = L + N."""
    layers: int
    """How many read them."""

    @classmethod
    def in_groups(cls, rollouts: Rollouts, places: Places, layers: int, dtype: torch.dtype) -> Texts:
        """Responses read their prompts."""
        mask_PL = rollouts.prompt_mask_PL
        asked = mask_PL.repeat_interleave(places.G, dim=0)[:, None, :].expand(-1, places.N, -1)
        own = _earlier(places.N, mask_PL.device).expand(len(asked), -1, -1)
        return cls(
            places, _of_texts(mask_PL, dtype), padding_bias(torch.cat([asked, own], dim=-1), dtype), layers
        )

    @classmethod
    def whole(cls, mask_BS: Tensor, places: Places, layers: int, dtype: torch.dtype) -> Texts:
        """Texts that are read whole."""
        none = mask_BS.new_empty(0, 1, 0, mask_BS.shape[1], dtype=dtype)
        return cls(places, _of_texts(mask_BS, dtype), none, layers)

    def remakes(self, heads: int) -> bool:
        """Whether probabilities are to be made again in the backward pass."""
        P, G, L, N = self.places.shape
        return heads * P * (L**2 + G * N * (L + N)) * self.layers >= KEPT

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Queries [tokens, heads, D], keys and values [tokens, heads or a divisor of them, D] → [tokens, heads·D]."""
        longest = self.places.L + self.places.N
        if query.device.type != "cpu" or MOST_KEPT * query.shape[-1] < longest or not is_short(longest):
            return self._by_kernel(query, key, value, scale)
        return _exactly(lambda q, k, v: Products.apply(q, k, v, self, scale), query, key, value)

    def _by_kernel(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """By torch's fused kernel, which is given copies: else what it keeps would keep the wider tensors that they are
        parts of."""
        places = self.places
        asked, answered = zip(*(places.texts(x) for x in (query, key, value)), strict=True)
        query, *before = (x.transpose(1, 2).contiguous() for x in asked)
        key, value = before
        # Without a bias the kernel leaves out what comes later, half of a long text.
        bias = None if places.no_prompt_padded else self.prompts_P1LL
        found = _kernel(query, key, value, bias, scale)
        if places.G:
            own, *after = (x.transpose(1, 2) for x in answered)
            key, value = (
                torch.cat([x.repeat_interleave(places.G, dim=0), y], dim=2)
                for x, y in zip(before, after, strict=True)
            )
            found = torch.cat([found, _kernel(own.contiguous(), key, value, self.responses_B1NS, scale)])
        return places.of_tokens(found)


def padding_bias(readable_BNS: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, N, S] to add to attention's logits: 0 where a token may be read, −inf elsewhere."""
    shape, device = readable_BNS[:, None].shape, readable_BNS.device
    return torch.zeros(shape, dtype=dtype, device=device).masked_fill(~readable_BNS[:, None], -torch.inf)


def _of_texts(mask_BS: Tensor, dtype: torch.dtype) -> Tensor:
    # Padding reads itself: with nothing to read its softmax would not be finite.
    itself_SS = torch.eye(mask_BS.shape[1], dtype=torch.bool, device=mask_BS.device)
    return padding_bias((_earlier(mask_BS.shape[1], mask_BS.device) & mask_BS[:, None, :]) | itself_SS, dtype)


def _earlier(tokens: int, device: torch.device) -> Tensor:
    """Each token and those before it, [N, N]."""
    return torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()


def is_short(tokens: int) -> bool:
    """Whether products are faster than the kernel on a CPU, in texts of so many tokens."""
    return tokens**2 <= SHORT


def _exactly(attend: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """attend(query, key, value) in fp32, or in fp64 if that is what they are, given back in the values' type: products in
    half precision would round the sums before the softmax, and a CPU's kernel, which does not, takes several times as
    long in it."""
    read = (query, key, value)
    kinds = {x.dtype for x in read}
    if kinds == {torch.float64} or (kinds == {torch.float32} and not torch.is_autocast_enabled("cpu")):
        return attend(*read)
    with torch.autocast("cpu", enabled=False):
        return attend(*(x.float() for x in read)).to(value.dtype)


def _kernel(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Queries [B, heads, N, D], keys and values [B, heads or a divisor of them, S, D] → [B·N, heads·D]; without a bias each
    token reads all that come before it."""
    sharing, on_cpu = query.shape[1] // keys.shape[1], query.device.type == "cpu"
    if sharing > 1 and not on_cpu:  # with a bias only torch's slowest kernel knows of shared keys there
        keys, values = (x.repeat_interleave(sharing, dim=1) for x in (keys, values))
    with _without_plans(query.device):
        found = F.scaled_dot_product_attention(
            query,
            keys,
            values,
            None if bias is None else bias.to(query.dtype),
            is_causal=bias is None,
            scale=scale,
            enable_gqa=sharing > 1 and on_cpu,
        )
    return found.transpose(1, 2).flatten(2).flatten(0, 1)


def _without_plans(device: torch.device) -> AbstractContextManager[None]:
    """Leaves cuDNN's kernel out, which torch prefers on some GPUs: for every new shape, and here they are ever new, it
    makes a plan, in 0.35 s on an H100."""
    if device.type == "cpu":
        return nullcontext()
    context: AbstractContextManager[None] = sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
    return context


def attend_from_one(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    """One token a row: queries [B, heads, D], keys and values [B, heads or a divisor of them, S, D], bias
    [B, heads of keys, 1, S] → [B, heads·D]."""
    if query.device.type != "cpu":
        # Heads that share keys as if they were tokens of one text: the keys need no copies then.
        query = query.unflatten(1, (keys.shape[1], -1))
        with _without_plans(query.device):
            return F.scaled_dot_product_attention(query, keys, values, bias[:, :1], scale=scale).flatten(1)
    return _exactly(lambda q, k, v: _from_one(q, k, v, bias.to(q.dtype), scale), query, keys, values)


def _from_one(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    B, A, _, D = keys.shape
    keys, values, bias = keys.flatten(0, 1), values.flatten(0, 1), bias.flatten(0, 1)
    logits = torch.baddbmm(bias, query.reshape(B * A, -1, D), keys.mT, alpha=scale)
    return torch.bmm(logits.softmax(-1), values).view(B, -1)
