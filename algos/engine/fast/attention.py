"""Attention: of whole texts, and of one new token to those in a cache.

On a CPU torch's fused kernel multiplies short texts in pieces too small for its matrix library. Batched products over
all texts at once take two thirds to four fifths of its time (docs/benchmarks.md), and less in half precision, in which
the kernel is slow. Longer texts go to the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from algos.engine.fast.batched import Products
from algos.engine.fast.masks import Texts

SHORT = 2**15
"""Attention logits of a text in one head, its tokens squared, up to which products are faster than the kernel."""
MOST_KEPT = 4
"""Tokens of a text for each unit of a head's width, up to which products are used. Their probabilities, which the
backward pass needs, are then at most so many times as large as the layer's output."""


def attend(texts: Texts, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention within texts: queries [M, heads, D], keys and values [M, A, D] → [M, heads·D]. The heads are A, or a
    multiple of A: several queries then share a key."""
    longest = texts.places.L + texts.places.R
    if query.device.type != "cpu" or MOST_KEPT * query.shape[-1] < longest or not is_short(longest):
        return _by_kernel(texts, query, key, value, scale)
    return _exactly(lambda q, k, v: Products.apply(q, k, v, texts, scale), query, key, value)


def _by_kernel(texts: Texts, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """`attend` by torch's fused kernel. It is given copies: of views it would keep the wider tensors that they are
    parts of."""
    places = texts.places
    of_prompts, of_responses = zip(*(places.texts(x) for x in (query, key, value)), strict=True)
    query, *before = (x.transpose(1, 2).contiguous() for x in of_prompts)
    key, value = before
    # Without a bias the kernel skips what comes later, half of a long text.
    bias = None if places.no_prompt_padded else texts.prompts_P1LL
    found = _kernel(query, key, value, bias, scale)
    if places.G:
        own, *after = (x.transpose(1, 2) for x in of_responses)
        key, value = (
            torch.cat([x.repeat_interleave(places.G, dim=0), y], dim=2)
            for x, y in zip(before, after, strict=True)
        )
        found = torch.cat([found, _kernel(own.contiguous(), key, value, texts.responses_B1RS, scale)])
    return places.of_tokens(found)


def is_short(tokens: int) -> bool:
    """Whether products are faster than the kernel on a CPU, for texts of so many tokens."""
    return tokens**2 <= SHORT


def _exactly(compute: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """compute(query, key, value) in fp32, or in fp64 if all three are fp64; the result has the values' type. Products
    in half precision would round the sums before the softmax; a CPU's kernel does not, but takes several times as long
    in half precision."""
    read = (query, key, value)
    kinds = {x.dtype for x in read}
    if kinds == {torch.float64} or (kinds == {torch.float32} and not torch.is_autocast_enabled("cpu")):
        return compute(*read)
    with torch.autocast("cpu", enabled=False):
        return compute(*(x.float() for x in read)).to(value.dtype)


def _kernel(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Queries [B, heads, R, D], keys and values [B, A, S, D], bias [B, 1, R, S] → [B·R, heads·D]; without a bias each
    token attends to itself and all before it."""
    sharing, on_cpu = query.shape[1] // keys.shape[1], query.device.type == "cpu"
    if sharing > 1 and not on_cpu:  # with a bias only torch's slowest kernel takes shared keys there
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
    """Leaves out cuDNN's kernel, which torch prefers on some GPUs: it makes a plan for every new shape, in 0.1 to 0.2 s
    on an H100 (docs/benchmarks.md), and here shapes are new at nearly every step."""
    if device.type == "cpu":
        return nullcontext()
    context: AbstractContextManager[None] = sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
    return context


def attend_from_one(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Attention of one token a row: queries [B, heads, D], keys and values [B, A, S, D], bias [B, A, 1, S]
    → [B, heads·D]."""
    if query.device.type != "cpu":
        # Heads that share a key are passed as if they were tokens of one text, so that keys need no copies.
        query = query.unflatten(1, (keys.shape[1], -1))
        with _without_plans(query.device):
            return F.scaled_dot_product_attention(query, keys, values, bias[:, :1], scale=scale).flatten(1)
    return _exactly(lambda q, k, v: _from_one(q, k, v, bias.to(q.dtype), scale), query, keys, values)


def _from_one(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    B, A, _, D = keys.shape
    keys, values, bias = keys.flatten(0, 1), values.flatten(0, 1), bias.flatten(0, 1)
    logits = torch.baddbmm(bias, query.reshape(B * A, -1, D), keys.mT, alpha=scale)
    return torch.bmm(logits.softmax(-1), values).view(B, -1)
