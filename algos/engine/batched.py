"""Attention as batched products, with its gradient.

Heads stand beside the texts: A heads of keys and values, and K of queries to each. A group's responses stand one after
another, so that one product meets all of them with their prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from algos.engine.attention import Texts


class Products(torch.autograd.Function):
    """`Texts.attend`. `first` is what is read of prompts, `own` what responses read of themselves."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, texts: Texts, scale: float) -> Tensor:
        (q, own_q), (k, own_k), (v, own_v) = (_arranged(x, texts, key.shape[1]) for x in (query, key, value))
        probs, own_probs = _probabilities(q, own_q, k, own_k, texts, scale)
        read, own_read = torch.bmm(probs, v), own_q
        if texts.G:
            first, own = _parts(own_probs, texts)
            own_read = torch.bmm(first, v)
            _by_response(own_read, texts).baddbmm_(own, _by_response(own_v, texts))
        kept = () if texts.remakes(query.shape[1]) else (probs, own_probs)
        ctx.save_for_backward(q, own_q, k, own_k, v, own_v, *kept)
        ctx.texts, ctx.scale, ctx.shapes = texts, scale, (query.shape, key.shape)
        return _tokens(read, own_read, texts, query.shape, 1.0).flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, own_q, k, own_k, v, own_v, *kept = ctx.saved_tensors
        texts, scale, (shape, key_shape) = ctx.texts, ctx.scale, ctx.shapes
        probs, own_probs = kept or _probabilities(q, own_q, k, own_k, texts, scale)
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


def _probabilities(
    q: Tensor, own_q: Tensor, k: Tensor, own_k: Tensor, texts: Texts, scale: float
) -> tuple[Tensor, Tensor]:
    """Of prompts, [P·A, K·L, L], and of responses, [P·A, G·K·N, L + N], which may be none."""
    probs = _softmax(torch.bmm(q, k.mT), texts.prompts_P1LL[:, :, None], scale)
    return probs, _own_softmax(own_q, k, own_k, texts, scale) if texts.G else own_q


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
