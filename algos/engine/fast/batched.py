"""Attention as batched products, with its gradient.

Each of the A key-value heads is a text of its own in the batch; its K query heads lie one after another, and so do the
responses of a group, so that one product gives all their logits over the prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from algos.engine.fast.masks import Texts
from algos.engine.fast.places import Places


class Products(torch.autograd.Function):
    """Queries [M, heads, D], keys and values [M, A, D] → [M, heads·D].

    Names with `own_` belong to responses, those without to prompts. Of a response's probabilities `first` are those
    over its prompt, and `own` those over itself.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, texts: Texts, scale: float) -> Tensor:
        places, A = texts.places, key.shape[1]
        (q, own_q), (k, own_k), (v, own_v) = (places.heads_of(x, A) for x in (query, key, value))
        probs, own_probs = _probabilities(q, own_q, k, own_k, texts, scale)
        read, own_read = torch.bmm(probs, v), own_q
        if places.G:
            first, own = _parts(own_probs, places)
            own_read = torch.bmm(first, v)
            _by_response(own_read, places).baddbmm_(own, _by_response(own_v, places))
        ctx.save_for_backward(q, own_q, k, own_k, v, own_v, probs, own_probs)
        ctx.texts, ctx.scale, ctx.heads = texts, scale, (query.shape[1], A)
        return places.tokens_of(read, own_read, query.shape[1]).flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, own_q, k, own_k, v, own_v, probs, own_probs = ctx.saved_tensors
        texts, scale, (heads, A) = ctx.texts, ctx.scale, ctx.heads
        places = texts.places
        d_read, d_own_read = places.gradients_of(d_out.view(len(d_out), heads, -1), A)
        d_logits = _through_softmax(torch.bmm(d_read, v.mT), probs)
        d_q, d_own_q = _scaled(scale, d_logits, k), own_q
        d_k, d_own_k = _scaled(scale, d_logits.mT, q), own_k
        d_v, d_own_v = torch.bmm(probs.mT, d_read), own_v
        if places.G:
            of_first = torch.bmm(d_own_read, v.mT)
            each_d_read, each_q = _by_response(d_own_read, places), _by_response(own_q, places)
            of_own = torch.bmm(each_d_read, _by_response(own_v, places).mT)
            d_probs = torch.cat([of_first, of_own.view(*of_first.shape[:2], -1)], dim=-1)
            d_first, d_own = _parts(_through_softmax(d_probs, own_probs), places)
            first, own = _parts(own_probs, places)
            d_own_q = _scaled(scale, d_first, k)
            _by_response(d_own_q, places).baddbmm_(d_own, _by_response(own_k, places), alpha=scale)
            d_k.baddbmm_(d_first.mT, own_q, alpha=scale)
            d_v.baddbmm_(first.mT, d_own_read)
            d_own_k, d_own_v = _scaled(scale, d_own.mT, each_q), torch.bmm(own.mT, each_d_read)
        return (
            places.tokens_of(d_q, d_own_q, heads),
            places.tokens_of(d_k, d_own_k, A),
            places.tokens_of(d_v, d_own_v, A),
            None,
            None,
        )


def _by_response(x: Tensor, places: Places) -> Tensor:
    """[P·A, G·K·R, …] → [P·A·G, K·R, …], a view."""
    return x.view(len(x) * places.G, -1, x.shape[-1])


def _parts(x: Tensor, places: Places) -> tuple[Tensor, Tensor]:
    """Views of responses' logits or probabilities [P·A, G·K·R, L + R]: those over the prompt, [P·A, G·K·R, L], and
    those over the response itself, [P·A·G, K·R, R]."""
    return x[..., : places.L], _by_response(x, places)[..., places.L :]


def _probabilities(
    q: Tensor, own_q: Tensor, k: Tensor, own_k: Tensor, texts: Texts, scale: float
) -> tuple[Tensor, Tensor]:
    """Those of prompts, [P·A, K·L, L], and of responses, [P·A, G·K·R, L + R]; where there are no responses, any empty
    tensor."""
    probs = _softmax(torch.bmm(q, k.mT), texts.prompts_P1LL[:, :, None], scale)
    return probs, _own_softmax(own_q, k, own_k, texts, scale) if texts.places.G else own_q


def _softmax(logits: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Of prompts' logits [P·A, K·L, L] times the scale, plus the bias [P, 1, 1, L, L]."""
    P, L = bias.shape[0], bias.shape[-1]
    biased = torch.add(bias, logits.view(P, len(logits) // P, -1, L, L), alpha=scale)
    return biased.softmax(-1).view(logits.shape)


def _own_softmax(own_q: Tensor, k: Tensor, own_k: Tensor, texts: Texts, scale: float) -> Tensor:
    """Responses' probabilities over their prompt and themselves, [P·A, G·K·R, L + R]."""
    P, G, L, R = texts.places.shape
    of_first = torch.bmm(own_q, k.mT)
    of_own = torch.bmm(_by_response(own_q, texts.places), _by_response(own_k, texts.places).mT)
    seen = (P, len(k) // P, G, -1, R)
    bias = texts.responses_B1RS.view(P, 1, G, 1, R, L + R)
    biased = own_q.new_empty(*of_first.shape[:2], L + R)
    whole = biased.view(*seen, L + R)
    torch.add(bias[..., :L], of_first.view(*seen, L), alpha=scale, out=whole[..., :L])
    torch.add(bias[..., L:], of_own.view(*seen, R), alpha=scale, out=whole[..., L:])
    return biased.softmax(-1)


def _scaled(scale: float, a: Tensor, b: Tensor) -> Tensor:
    """scale · a b of batched matrices, without another pass over memory for the scale."""
    found = a.new_empty(len(a), a.shape[1], b.shape[2])
    return found.baddbmm_(a, b, beta=0, alpha=scale)


def _through_softmax(d_probs: Tensor, probs: Tensor) -> Tensor:
    """The softmax's gradient, from that of the probabilities to that of the logits."""
    d_logits: Tensor = torch.ops.aten._softmax_backward_data(d_probs, probs, -1, probs.dtype)
    return d_logits
