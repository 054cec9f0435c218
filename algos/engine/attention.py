"""What tokens read of each other: those of prompts, themselves; those of responses, their prompt and themselves.

On a CPU torch's fused kernel multiplies short texts in pieces too small for its matrix library; written as products
over all of them at once, attention takes two thirds to four fifths of the time (docs/benchmarks.md). Longer ones are the
kernel's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from algos.engine.rollouts import Rollouts

SHORT = 2**15
"""Attention logits of a text in one head, up to which products are faster than the kernel."""
MOST_KEPT = 4
"""Tokens of a text a unit of a head's width: a layer then keeps at most so many times its width as probabilities."""


@dataclass(frozen=True)
class Texts:
    """The tokens of a batch, one after another: L of each of P prompts, then N of each of their G responses.

    Where texts are read whole, they are prompts that have no responses (G = 0).
    """

    P: int
    G: int
    L: int
    N: int
    prompts_P1LL: Tensor
    """What attention adds to its logits: 0 where a token may be read, else −inf."""
    responses_B1NS: Tensor
    """Likewise, S = L + N."""

    @classmethod
    def in_groups(cls, rollouts: Rollouts, dtype: torch.dtype) -> Texts:
        """Prompts, and responses less the last token, whose successor nobody asks for."""
        P, G, mask_PL = rollouts.P, rollouts.G, rollouts.prompt_mask_PL
        N = rollouts.T - 1
        asked = mask_PL.repeat_interleave(G, dim=0)[:, None, :].expand(-1, N, -1)
        own = _earlier(N, mask_PL.device).expand(len(asked), -1, -1)
        responses = padding_bias(torch.cat([asked, own], dim=-1), dtype)
        return cls(P, G, mask_PL.shape[1], N, _of_texts(mask_PL, dtype), responses)

    @classmethod
    def whole(cls, mask_BS: Tensor, dtype: torch.dtype) -> Texts:
        """Texts that are padded on either side."""
        B, S = mask_BS.shape
        return cls(B, 0, S, 0, _of_texts(mask_BS, dtype), mask_BS.new_empty(0, 1, 0, S, dtype=dtype))

    @property
    def prompt_tokens(self) -> int:
        return self.P * self.L

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Queries [tokens, heads, D], keys and values [tokens, heads or a divisor of them, D] → [tokens, heads·D]."""
        narrow = MOST_KEPT * query.shape[-1] < self.L + self.N
        if is_short(self.L + self.N) and not narrow and _exact_on_cpu(query, key, value):
            found: Tensor = _Products.apply(query, key, value, self, scale)
            return found
        return self._by_kernel(query, key, value, scale)

    def _by_kernel(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """By torch's fused kernel, which is given copies: else what it keeps would keep the wider tensors that they are
        parts of."""
        asked, answered = zip(*(self.apart(x) for x in (query, key, value)), strict=True)
        query, *before = (x.unflatten(0, (self.P, self.L)).transpose(1, 2).contiguous() for x in asked)
        key, value = before
        found = _kernel(query, key, value, self.prompts_P1LL, scale)
        if not self.G:
            return found
        own, *after = (x.unflatten(0, (self.P * self.G, self.N)).transpose(1, 2) for x in answered)
        key, value = (
            torch.cat([x.repeat_interleave(self.G, dim=0), y], dim=2)
            for x, y in zip(before, after, strict=True)
        )
        return torch.cat([found, _kernel(own.contiguous(), key, value, self.responses_B1NS, scale)])

    def apart(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is the prompts' and what the responses'; unlike slices, they send back one gradient, not two halves
        full of zeros."""
        ahead, behind = x.split([self.prompt_tokens, len(x) - self.prompt_tokens])
        return ahead, behind


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


def _exact_on_cpu(*read: Tensor) -> bool:
    """Not in half precision, in which a product's sums would be rounded before the softmax; nor partly, where autocast
    left what came from norms as it was."""
    kinds = {x.dtype for x in read}
    return read[0].device.type == "cpu" and kinds in ({torch.float32}, {torch.float64})


def _kernel(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Queries [B, heads, N, D], keys and values [B, heads or a divisor of them, S, D] → [B·N, heads·D]."""
    sharing, on_cpu = query.shape[1] // keys.shape[1], query.device.type == "cpu"
    if sharing > 1 and not on_cpu:  # with a bias only torch's slowest kernel knows of shared keys there
        keys, values = (x.repeat_interleave(sharing, dim=1) for x in (keys, values))
    found = F.scaled_dot_product_attention(
        query, keys, values, bias.to(query.dtype), scale=scale, enable_gqa=sharing > 1 and on_cpu
    )
    return found.transpose(1, 2).flatten(2).flatten(0, 1)


def attend_from_one(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    """One token a row: queries [B, heads, D], keys and values [B, heads or a divisor of them, S, D], bias
    [B, heads of keys, 1, S] → [B, heads·D]."""
    if query.device.type != "cpu":
        return _kernel(query[:, :, None], keys, values, bias[:, :1], scale)
    if _exact_on_cpu(query, keys, values):
        return _from_one(query, keys, values, bias, scale)
    # A CPU's kernel takes four times as long in half precision as in fp32, and products would round the logits.
    with torch.autocast("cpu", enabled=False):
        found = _from_one(query.float(), keys.float(), values.float(), bias.float(), scale)
    return found.to(values.dtype)


def _from_one(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    B, A, _, D = keys.shape
    keys, values, bias = keys.flatten(0, 1), values.flatten(0, 1), bias.flatten(0, 1)
    logits = torch.baddbmm(bias, query.reshape(B * A, -1, D), keys.mT, alpha=scale)
    return torch.bmm(logits.softmax(-1), values).view(B, -1)


class _Products(torch.autograd.Function):
    """Attention as batched products.

    Heads stand beside the texts: A heads of keys and values, and K of queries to each. A group's responses stand one
    after another, so that one product meets all of them with their prompt. `first` is what is read of prompts, `own`
    what responses read of themselves.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, texts: Texts, scale: float) -> Tensor:
        (q, own_q), (k, own_k), (v, own_v) = (_arranged(x, texts, key.shape[1]) for x in (query, key, value))
        probs = _softmax(torch.bmm(q, k.mT), texts.prompts_P1LL[:, :, None], scale)
        read, own_read, own_probs = torch.bmm(probs, v), own_q, own_q
        if texts.G:
            own_probs = _own_softmax(own_q, k, own_k, texts, scale)
            first, own = _parts(own_probs, texts)
            own_read = torch.bmm(first, v)
            _by_response(own_read, texts).baddbmm_(own, _by_response(own_v, texts))
        ctx.save_for_backward(q, own_q, k, own_k, v, own_v, probs, own_probs)
        ctx.texts, ctx.scale, ctx.shapes = texts, scale, (query.shape, key.shape)
        return _tokens(read, own_read, texts, query.shape, 1.0).flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, own_q, k, own_k, v, own_v, probs, own_probs = ctx.saved_tensors
        texts, scale, (shape, key_shape) = ctx.texts, ctx.scale, ctx.shapes
        d_read, d_own_read = _arranged(d_out.view(shape), texts, key_shape[1])
        d_logits = _through_softmax(torch.bmm(d_read, v.mT), probs)
        d_q, d_own_q = torch.bmm(d_logits, k), own_q
        d_k, d_own_k = torch.bmm(d_logits.mT, q), own_k
        d_v, d_own_v = torch.bmm(probs.mT, d_read), own_v
        if texts.G:
            of_first = torch.bmm(d_own_read, v.mT)
            each_d_read, each_q = _by_response(d_own_read, texts), _by_response(own_q, texts)
            of_own = torch.bmm(each_d_read, _by_response(own_v, texts).mT)
            d_probs = torch.cat([of_first, of_own.view(*of_first.shape[:2], -1)], dim=-1)
            d_first, d_own = _parts(_through_softmax(d_probs, own_probs), texts)
            first, own = _parts(own_probs, texts)
            d_own_q = torch.bmm(d_first, k)
            _by_response(d_own_q, texts).baddbmm_(d_own, _by_response(own_k, texts))
            d_k.baddbmm_(d_first.mT, own_q)
            d_v.baddbmm_(first.mT, d_own_read)
            d_own_k, d_own_v = torch.bmm(d_own.mT, each_q), torch.bmm(own.mT, each_d_read)
        return (
            _tokens(d_q, d_own_q, texts, shape, scale),
            _tokens(d_k, d_own_k, texts, key_shape, scale),
            _tokens(d_v, d_own_v, texts, key_shape, 1.0),
            None,
            None,
        )


def _arranged(x: Tensor, texts: Texts, A: int) -> tuple[Tensor, Tensor]:
    """Of tokens [tokens, heads, D] those of prompts, [P·A, K·L, D], and of responses, [P·A, G·K·N, D]."""
    K, D = x.shape[1] // A, x.shape[-1]
    prompts, responses = _views(x, texts, A)
    # Of no responses a new tensor: a part of x, which would be kept with it, is as contiguous.
    own = responses.contiguous() if texts.G else x.new_empty(0)
    return (
        prompts.contiguous().view(texts.P * A, K * texts.L, D),
        own.view(texts.P * A, texts.G * K * texts.N, D),
    )


def _views(x: Tensor, texts: Texts, A: int) -> tuple[Tensor, Tensor]:
    """Tokens [tokens, heads, D] seen as [P, A, K, L, D] and [P, A, G, K, N, D]."""
    P, G, K, D = texts.P, texts.G, x.shape[1] // A, x.shape[-1]
    prompts, responses = x[: texts.prompt_tokens], x[texts.prompt_tokens :]
    return (
        prompts.view(P, texts.L, A, K, D).permute(0, 2, 3, 1, 4),
        responses.view(P, G, texts.N, A, K, D).permute(0, 3, 1, 4, 2, 5),
    )


def _tokens(prompts: Tensor, responses: Tensor, texts: Texts, shape: torch.Size, scale: float) -> Tensor:
    """Back from `_arranged`, times the scale."""
    found = prompts.new_empty(shape)
    A = len(prompts) // texts.P
    for view, part in zip(_views(found, texts, A), (prompts, responses), strict=True):
        if scale == 1:
            view.copy_(part.view(view.shape))
        else:
            torch.mul(part.view(view.shape), scale, out=view)
    return found


def _by_response(x: Tensor, texts: Texts) -> Tensor:
    """[P·A, G·K·N, …] → [P·A·G, K·N, …]"""
    return x.view(len(x) * texts.G, -1, x.shape[-1])


def _parts(x: Tensor, texts: Texts) -> tuple[Tensor, Tensor]:
    """Of logits or probs [P·A, G·K·N, L + N] those of the prompt, and [P·A·G, K·N, N] those of the response itself."""
    return x[..., : texts.L], _by_response(x, texts)[..., texts.L :]


def _softmax(logits: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Of logits [P·A, K·L, L]; bias [P, 1, 1, L, L]."""
    P, L = bias.shape[0], bias.shape[-1]
    biased = torch.add(bias, logits.view(P, len(logits) // P, -1, L, L), alpha=scale)
    return biased.softmax(-1).view(logits.shape)


def _own_softmax(own_q: Tensor, k: Tensor, own_k: Tensor, texts: Texts, scale: float) -> Tensor:
    """What responses read of their prompts and of themselves, [P·A, G·K·N, L + N]."""
    P, G, L, N = texts.P, texts.G, texts.L, texts.N
    of_first = torch.bmm(own_q, k.mT)
    of_own = torch.bmm(_by_response(own_q, texts), _by_response(own_k, texts).mT)
    seen = (P, len(k) // P, G, -1, N)
    bias = texts.responses_B1NS.view(P, 1, G, 1, N, L + N)
    biased = own_q.new_empty(*of_first.shape[:2], L + N)
    whole = biased.view(*seen, L + N)
    torch.add(bias[..., :L], of_first.view(*seen, L), alpha=scale, out=whole[..., :L])
    torch.add(bias[..., L:], of_own.view(*seen, N), alpha=scale, out=whole[..., L:])
    return biased.softmax(-1)


def _through_softmax(d_probs: Tensor, probs: Tensor) -> Tensor:
    d_logits: Tensor = torch.ops.aten._softmax_backward_data(d_probs, probs, -1, probs.dtype)
    return d_logits
