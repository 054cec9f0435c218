"""The language model's head and the log-softmax behind it, a few rows at a time: [B, T, V] never exists.

A vocabulary of 50,000 makes the logits of a batch larger than the model; log-softmax, its copy for the
gradient and the gradient itself make them four times as large. Here a chunk of positions goes through the head
at once; what remains of it are one log-probability, one entropy and one normaliser a position. The backward
pass computes logits again (as Chen et al. 2016 do for layers), which costs a third more of the head alone; a
chunk of words at once, for with their normalisers known all positions' gradient of a word's weights is one product.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from algos.engine.products import FastLinear, product

CHUNK = 2**22
"""Logits that exist at once: 16 MiB in fp32, which a processor's cache holds."""

_ALL = slice(None)

_is_linear: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


def unwrapped(model: Any) -> Any:
    """The transformers model, whether or not adapters are wrapped around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def linear_head(model: Any) -> nn.Linear | None:
    """The head, where logits are a linear function of the trunk's last hidden states and nothing else; else None.

    Tried out once a model rather than known by its name: some scale or cap their logits (Gemma 2, Cohere,
    Granite), some project the hidden states before the head.
    """
    inner = unwrapped(model)
    head = inner.get_output_embeddings()
    if type(head) not in (nn.Linear, FastLinear):  # an adapter on the head, or another kind of layer
        return None
    if inner not in _is_linear:
        remember(inner, _tried(inner, head))
    return head if _is_linear[inner] else None


def remember(model: nn.Module, is_linear: bool) -> None:
    """Answers `linear_head` for models that cannot be tried out, such as those without data."""
    _is_linear[model] = is_linear


@torch.no_grad()
def _tried(inner: Any, head: nn.Linear) -> bool:
    """Whether the head reads what the trunk gives, and what it gives are the logits."""
    ids = torch.arange(min(8, head.out_features), device=head.weight.device)[None]
    hidden = getattr(inner.base_model(input_ids=ids, use_cache=False), "last_hidden_state", None)
    read: list[Tensor] = []
    given: list[Tensor] = []

    def instead(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """Large numbers: a cap bends those, and rounds away on small ones."""
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
    hidden_NH: Tensor, head: nn.Linear, ids_N: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the given tokens and entropies (no gradient), both [N] in nats, at least in fp32."""
    found: tuple[Tensor, Tensor] = _SelectiveLogSoftmax.apply(
        hidden_NH, head.weight, head.bias, ids_N, temperature
    )
    return found


def _matrix_dtype(hidden: Tensor) -> torch.dtype:
    """What autocast would multiply in."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


class _Logits:
    """Parts of the logits that a gradient-free product gives."""

    def __init__(
        self, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, temperature: float
    ) -> None:
        self.hidden, self.weight, self.bias, self.temperature = hidden_NH, weight_VH, bias_V, temperature
        self.dtype = torch.promote_types(hidden_NH.dtype, torch.float32)

    def rows(self) -> list[slice]:
        """Parts with all words of some positions."""
        return _parts(len(self.hidden), len(self.weight))

    def words(self) -> list[slice]:
        """Parts with all positions of some words."""
        return _parts(len(self.weight), len(self.hidden))

    def part(self, rows: slice, words: slice) -> Tensor:
        """Logits/temperature, the caller's to write on."""
        bias = None if self.bias is None else self.bias[words]
        logits = product(self.hidden[rows], self.weight[words], bias).to(self.dtype)
        return logits if self.temperature == 1 else logits.div_(self.temperature)


def _parts(length: int, width: int) -> list[slice]:
    size = max(1, CHUNK // max(1, width))
    return [slice(i, i + size) for i in range(0, length, size)]


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
        ctx.matrix_dtype, ctx.temperature = _matrix_dtype(hidden_NH), temperature
        with torch.autocast(hidden_NH.device.type, enabled=False):
            logits = _logits(ctx, hidden_NH, weight_VH, bias_V)
            N = len(ids_N)
            logps_N, normaliser_N, entropy_N = hidden_NH.new_zeros((3, N), dtype=logits.dtype).unbind(0)
            for part in logits.rows():
                logits_CV = logits.part(part, _ALL)
                # One exponential a logit gives both the normaliser and the entropy.
                highest_C1 = logits_CV.amax(-1, keepdim=True)
                odds_CV = (logits_CV - highest_C1).exp_()
                total_C = odds_CV.sum(-1)
                normaliser_C = highest_C1.squeeze(-1) + total_C.log()
                normaliser_N[part] = normaliser_C
                logps_N[part] = logits_CV.gather(-1, ids_N[part, None]).squeeze(-1) - normaliser_C
                mean_C = torch.linalg.vecdot(odds_CV, logits_CV) / total_C
                entropy_N[part] = (normaliser_C - mean_C).clamp(min=0)
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, ids_N, normaliser_N)
        ctx.mark_non_differentiable(entropy_N)
        return logps_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """∂ log π(y)/∂ logits = 1[y] − π; some words at a time, whose weights' gradient is then whole."""
        hidden_NH, weight_VH, bias_V, ids_N, normaliser_N = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        with torch.autocast(hidden_NH.device.type, enabled=False):
            logits, grad_N1 = _logits(ctx, hidden_NH, weight_VH, bias_V), grad_N[:, None]
            d_hidden = hidden_NH.new_zeros(hidden_NH.shape, dtype=logits.dtype) if for_hidden else None
            d_weight = torch.empty_like(weight_VH) if for_weight else None
            d_bias = torch.empty_like(bias_V) if for_bias and bias_V is not None else None
            for words in logits.words():
                d_logits_NC = logits.part(_ALL, words).sub_(normaliser_N[:, None]).exp_().mul_(-grad_N1)
                place_N = ids_N - words.start
                here_N1 = ((place_N >= 0) & (place_N < d_logits_NC.shape[1]))[:, None]
                place_N1 = place_N[:, None].clamp(0, d_logits_NC.shape[1] - 1)
                d_logits_NC.scatter_add_(-1, place_N1, torch.where(here_N1, grad_N1, 0.0))
                d_logits_NC = d_logits_NC.div_(ctx.temperature).to(ctx.matrix_dtype)
                if d_hidden is not None:
                    d_hidden += product(d_logits_NC, logits.weight[words].T)
                if d_weight is not None:
                    d_weight[words] = product(d_logits_NC.T, logits.hidden.T)
                if d_bias is not None:
                    d_bias[words] = d_logits_NC.sum(0)
        return None if d_hidden is None else d_hidden.to(hidden_NH.dtype), d_weight, d_bias, None, None


def _logits(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> _Logits:
    dtype: torch.dtype = ctx.matrix_dtype
    bias_V = None if bias_V is None else bias_V.to(dtype)
    return _Logits(hidden_NH.to(dtype), weight_VH.to(dtype), bias_V, ctx.temperature)
