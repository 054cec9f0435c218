"""The language model's head and the log-softmax behind it, a few rows at a time: [B, T, V] never exists.

A vocabulary of 50,000 makes the logits of a batch larger than the model; log-softmax, its copy for the
gradient and the gradient itself make them four times as large. Here a chunk of positions goes through the head
at once; what remains of it are one log-probability, one entropy and one normaliser a position. The backward
pass computes the chunk's logits again (as Chen et al. 2016 do for layers), which costs a third more of the
head alone.
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


class _Chunks:
    """The logits of consecutive rows, one buffer for all of them."""

    def __init__(
        self, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, temperature: float
    ) -> None:
        self.hidden, self.weight, self.bias, self.temperature = hidden_NH, weight_VH, bias_V, temperature
        self.dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
        self.rows = max(1, CHUNK // len(weight_VH))

    def parts(self) -> list[slice]:
        return [slice(i, i + self.rows) for i in range(0, len(self.hidden), self.rows)]

    def logits(self, part: slice) -> Tensor:
        """Logits/temperature [C, V], the caller's to write on."""
        logits_CV = product(self.hidden[part], self.weight, self.bias).to(self.dtype)
        return logits_CV if self.temperature == 1 else logits_CV.div_(self.temperature)


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
            chunks = _chunks(ctx, hidden_NH, weight_VH, bias_V)
            N = len(ids_N)
            logps_N, normaliser_N, entropy_N = hidden_NH.new_zeros((3, N), dtype=chunks.dtype).unbind(0)
            for part in chunks.parts():
                logits_CV = chunks.logits(part)
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
        """∂ log π(y)/∂ logits = 1[y] − π."""
        hidden_NH, weight_VH, bias_V, ids_N, normaliser_N = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        with torch.autocast(hidden_NH.device.type, enabled=False):
            chunks = _chunks(ctx, hidden_NH, weight_VH, bias_V)
            d_hidden = torch.empty_like(hidden_NH) if for_hidden else None
            d_weight = torch.zeros_like(weight_VH) if for_weight else None
            d_bias = torch.zeros_like(bias_V) if for_bias and bias_V is not None else None
            for part in chunks.parts():
                grad_C1 = grad_N[part, None]
                d_logits_CV = chunks.logits(part).sub_(normaliser_N[part, None]).exp_().mul_(-grad_C1)
                d_logits_CV.scatter_add_(-1, ids_N[part, None], grad_C1)
                d_logits_CV = d_logits_CV.div_(ctx.temperature).to(ctx.matrix_dtype)
                if d_hidden is not None:
                    d_hidden[part] = product(d_logits_CV, chunks.weight.T)
                if d_weight is not None:
                    d_weight += product(d_logits_CV.T, chunks.hidden[part].T)
                if d_bias is not None:
                    d_bias += d_logits_CV.sum(0)
        return d_hidden, d_weight, d_bias, None, None


def _chunks(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> _Chunks:
    dtype: torch.dtype = ctx.matrix_dtype
    bias_V = None if bias_V is None else bias_V.to(dtype)
    return _Chunks(hidden_NH.to(dtype), weight_VH.to(dtype), bias_V, ctx.temperature)
