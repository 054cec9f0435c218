"""The language model's head and its log-softmax, a chunk of the vocabulary at a time: [B, T, V] never exists.

With a vocabulary of 50,000 the logits of a batch are larger than the model, and with the log-softmax, its copy for the
gradient and the gradient itself four times as large. Here the logits of all positions over one chunk of the vocabulary
are computed at once. Kept of them are a maximum, two sums (the online softmax of Milakov and Gimelshein 2018) and the
logits of the chosen tokens. The backward pass computes the logits again (as Chen et al. 2016 do for layers), which
makes the head itself cost a third more.
"""

from __future__ import annotations

import logging
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from algos.engine.fast.activated import is_watched
from algos.engine.fast.products import FastLinear, add_product, multiplied_in, put_product, wide_product
from algos.engine.inputs import unwrapped

CHUNK = 2**20
"""Logits that exist at once on a CPU: 4 MiB in fp32, which fit in its cache."""
GPU_CHUNK = 2**26
"""And on a GPU, where every chunk means to launch a dozen kernels: 256 MiB in fp32."""

logger = logging.getLogger(__name__)

_is_linear: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


def linear_head(model: Any) -> nn.Linear | None:
    """The head, where the logits are a linear function of the trunk's last hidden states and nothing else; else None.

    Tried once for each model, not known by its name: some models scale or cap their logits (Gemma 2, Cohere, Granite),
    some project the hidden states before the head.
    """
    inner = unwrapped(model)
    head = inner.get_output_embeddings()
    # Else it is an adapter or another kind of layer, or hooks watch the calls.
    if type(head) not in (nn.Linear, FastLinear) or is_watched(inner, head):
        return None
    if inner not in _is_linear:
        declare_linear_head(inner, _tried(inner, head))
        if not _is_linear[inner]:
            logger.debug("%s: all its logits are made at once.", type(inner).__name__)
    return head if _is_linear[inner] else None


def declare_linear_head(model: nn.Module, is_linear: bool) -> None:
    """Says what `linear_head` is to find. For models that cannot be tried, such as those without data."""
    _is_linear[model] = is_linear


@torch.no_grad()
def _tried(inner: Any, head: nn.Linear) -> bool:
    """Whether the head's input is the trunk's output, and the head's output the logits."""
    ids = torch.arange(min(8, head.out_features), device=head.weight.device)[None]
    hidden = getattr(inner.base_model(input_ids=ids, use_cache=False), "last_hidden_state", None)
    read: list[Tensor] = []
    given: list[Tensor] = []

    def instead(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """Large numbers: a cap changes them, while its effect on small ones would be lost in rounding."""
        read.append(inputs[0])
        return (torch.linspace(-1e3, 1e3, inputs[0].numel()).view(inputs[0].shape).to(inputs[0]),)

    handles = [
        head.register_forward_pre_hook(instead),
        head.register_forward_hook(lambda _, inputs, output: given.append(output.clone())),
    ]
    try:
        logits = inner(input_ids=ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    if hidden is None or len(read) != 1:
        return False
    return torch.equal(hidden, read[0]) and torch.equal(logits, given[0])


def selected_logps(
    hidden_NH: Tensor, head: nn.Linear, ids_N: Tensor, temperature: float, weight_VH: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the given tokens and entropies (no gradient), both [N] in nats and at least in fp32.

    `weight_VH` replaces the head's own weight, where the gradient has to go through it (`shared_gradient`).
    """
    found: tuple[Tensor, Tensor] = _SelectiveLogSoftmax.apply(
        hidden_NH, head.weight if weight_VH is None else weight_VH, head.bias, ids_N, temperature
    )
    return found


class _Logits:
    """Logits [N, V], computed without gradient in chunks of the vocabulary."""

    def __init__(
        self, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, temperature: float
    ) -> None:
        self.hidden, self.weight, self.bias, self.temperature = hidden_NH, weight_VH, bias_V, temperature
        self.dtype = torch.promote_types(hidden_NH.dtype, torch.float32)

    def chunks(self) -> list[slice]:
        """Chunks of the vocabulary, over each of which there are at most `CHUNK` logits (on a GPU `GPU_CHUNK`)."""
        on_cpu, V = self.hidden.device.type == "cpu", len(self.weight)
        size = max(1, (CHUNK if on_cpu else GPU_CHUNK) // max(1, len(self.hidden)))
        if on_cpu and size >= 64:
            # An odd number of cache lines: rows a power of two apart would share a few of the cache's sets.
            size = size // 32 * 32 - 16
        return [slice(i, min(i + size, V)) for i in range(0, V, size)]

    def part(self, chunk: slice) -> Tensor:
        """All positions' logits/temperature over the chunk, [N, C], in a new tensor."""
        bias = None if self.bias is None else self.bias[chunk]
        logits = wide_product(self.hidden, self.weight[chunk], bias)
        return logits if self.temperature == 1 else logits.div_(self.temperature)


class _Sums:
    """Of each position's logits x over the chunks so far: the highest m, Σ e^(x−m) and Σ e^(x−m)·(x−m), all [N]. Logits
    that are passed [N, C] are overwritten."""

    def __init__(self, logits_NC: Tensor) -> None:
        self.highest = logits_NC.amax(-1)
        self.total, self.weighted = _sums(logits_NC, self.highest)

    def add(self, logits_NC: Tensor) -> None:
        """One chunk more."""
        before, self.highest = self.highest, torch.maximum(self.highest, logits_NC.amax(-1))
        fall_N = before - self.highest
        shrink_N = fall_N.exp()
        total_N, weighted_N = _sums(logits_NC, self.highest)
        self.weighted = shrink_N * (self.weighted + fall_N * self.total) + weighted_N
        self.total = shrink_N * self.total + total_N

    @property
    def normaliser(self) -> Tensor:
        """log Σ e^x, [N]"""
        return self.highest + self.total.log()

    @property
    def entropy(self) -> Tensor:
        """[N] in nats."""
        return (self.total.log() - self.weighted / self.total).clamp(min=0)


def _sums(logits_NC: Tensor, highest_N: Tensor) -> tuple[Tensor, Tensor]:
    """Σ e^(x−m) and Σ e^(x−m)·(x−m) of logits x and a highest m, both [N]. Overwrites the logits: one more copy of them
    would take as long as the exponential."""
    below_NC = logits_NC.sub_(highest_N[:, None])
    weights_NC = below_NC.exp()
    return weights_NC.sum(-1), below_NC.mul_(weights_NC).sum(-1)


class _Chosen:
    """Which positions chose a token of the chunk, and its index in the chunk, both [N, 1]."""

    def __init__(self, ids_N: Tensor, chunk: slice) -> None:
        place_N = ids_N - chunk.start
        width = chunk.stop - chunk.start
        self.here = ((place_N >= 0) & (place_N < width))[:, None]
        self.place = place_N.clamp(0, width - 1)[:, None]


class _SelectiveLogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        ids_N: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.matrix_dtype = multiplied_in(hidden_NH.device.type, hidden_NH.dtype)
        ctx.temperature = temperature
        with torch.autocast(hidden_NH.device.type, enabled=False):
            logits = _logits(ctx, hidden_NH, weight_VH, bias_V)
            chosen_N1 = hidden_NH.new_zeros((len(ids_N), 1), dtype=logits.dtype)
            sums: _Sums | None = None
            for chunk in logits.chunks():
                logits_NC, chosen = logits.part(chunk), _Chosen(ids_N, chunk)
                chosen_N1 = torch.where(chosen.here, logits_NC.gather(-1, chosen.place), chosen_N1)
                if sums is None:
                    sums = _Sums(logits_NC)
                else:
                    sums.add(logits_NC)
            assert sums is not None
            normaliser_N, entropy_N = sums.normaliser, sums.entropy
            logps_N = chosen_N1.squeeze(-1) - normaliser_N
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, ids_N, normaliser_N)
        ctx.mark_non_differentiable(entropy_N)
        return logps_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """∂ log π(y)/∂ logits = 1[y] − π, a chunk at a time: the gradient of that chunk's weights is then complete."""
        hidden_NH, weight_VH, bias_V, ids_N, normaliser_N = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        with torch.autocast(hidden_NH.device.type, enabled=False):
            logits, grad_N1 = _logits(ctx, hidden_NH, weight_VH, bias_V), grad_N[:, None]
            d_hidden = hidden_NH.new_zeros(hidden_NH.shape, dtype=logits.dtype) if for_hidden else None
            d_weight = torch.empty_like(weight_VH) if for_weight else None
            d_bias = torch.empty_like(bias_V) if for_bias and bias_V is not None else None
            hidden_HN = logits.hidden.T.contiguous() if for_weight else None
            for chunk in logits.chunks():
                d_logits_NC = logits.part(chunk).sub_(normaliser_N[:, None]).exp_().mul_(-grad_N1)
                chosen = _Chosen(ids_N, chunk)
                d_logits_NC.scatter_add_(-1, chosen.place, torch.where(chosen.here, grad_N1, 0.0))
                if ctx.temperature != 1:
                    d_logits_NC.div_(ctx.temperature)
                d_logits_NC = d_logits_NC.to(ctx.matrix_dtype)
                if d_hidden is not None:
                    add_product(d_hidden, d_logits_NC, logits.weight[chunk].T)
                if d_weight is not None and hidden_HN is not None:
                    put_product(d_weight[chunk], d_logits_NC.T, hidden_HN, logits.hidden)
                if d_bias is not None:
                    d_bias[chunk] = d_logits_NC.sum(0)
        return None if d_hidden is None else d_hidden.to(hidden_NH.dtype), d_weight, d_bias, None, None


def _logits(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> _Logits:
    dtype: torch.dtype = ctx.matrix_dtype
    bias_V = None if bias_V is None else bias_V.to(dtype)
    return _Logits(hidden_NH.to(dtype), weight_VH.to(dtype), bias_V, ctx.temperature)
