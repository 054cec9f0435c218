"""An activation and the linear layer behind it, of which the backward pass keeps what the activation read alone.

What an activation gives is the widest of all that a layer keeps, and takes a hundredth of the layer's time to make
again (the idea is Chen et al.'s, 2016, for whole layers).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mistral.modeling_mistral import MistralMLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP
from transformers.pytorch_utils import Conv1D

from algos.engine.products import FastConv1D, FastLinear, linear_gradients, product

Activation = Callable[..., Tensor]

WIDE = 2**20
"""Numbers that an activation gives, 4 MiB of them, below which they are kept: making them again would take longer."""


def keep_less(model: nn.Module) -> None:
    """From now on the model's feed-forward layers, where they are known, keep less for the backward pass."""
    for module in model.modules():
        module.__class__ = _LIGHT.get(type(module), type(module))


def activated(linear: nn.Module, activation: Activation, *read: Tensor) -> Tensor:
    """linear(activation(*read)), of tensors [..., K] → [..., N]; the activation's own output is not kept where it is wide."""
    transposed = _TRANSPOSED.get(type(linear))  # None for adapters and whatever else there may be
    worth = torch.is_grad_enabled() and read[0].numel() >= WIDE
    plain = not torch.is_autocast_enabled(read[0].device.type) and not _has_hooks(linear)
    if transposed is not None and worth and plain:
        found: Tensor = _Activated.apply(activation, linear.weight, linear.bias, transposed, *read)
        return found
    given: Tensor = linear(activation(*read))
    return given


def _has_hooks(module: nn.Module) -> bool:
    """Whether somebody waits for the module to be called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


_TRANSPOSED: dict[type[nn.Module], bool] = {
    nn.Linear: False, FastLinear: False, Conv1D: True, FastConv1D: True,
}  # fmt: skip
"""Whether the weight is [in, out] instead of [out, in]."""


class LightGPT2MLP(GPT2MLP):
    """transformers', keeping less."""

    def forward(self, hidden_states: Any) -> Tensor:
        return self.dropout(activated(self.c_proj, self.act, self.c_fc(hidden_states)))


class _Gated(nn.Module):
    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: Activation

    def forward(self, x: Tensor) -> Tensor:
        return activated(self.down_proj, self._gate, self.gate_proj(x), self.up_proj(x))

    def _gate(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.act_fn(gate) * up


_LIGHT: dict[type[nn.Module], type[nn.Module]] = {GPT2MLP: LightGPT2MLP} | {
    kind: type(f"Light{kind.__name__}", (_Gated, kind), {"__doc__": "transformers', keeping less."})
    for kind in (LlamaMLP, MistralMLP, Qwen2MLP, Qwen3MLP)
}


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, activation: Activation, weight: Tensor, bias: Tensor | None, transposed: bool, *read: Tensor
    ) -> Tensor:
        ctx.save_for_backward(weight, *read)
        ctx.activation, ctx.transposed = activation, transposed
        x = activation(*read)
        matrix = weight.t() if transposed else weight
        return product(x.reshape(-1, x.shape[-1]), matrix, bias).view(*x.shape[:-1], len(matrix))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *read = ctx.saved_tensors
        _, for_weight, for_bias, _, *for_read = ctx.needs_input_grad
        with torch.enable_grad():
            read = [x.detach().requires_grad_(needed) for x, needed in zip(read, for_read, strict=True)]
            x = ctx.activation(*read)
        needs = (any(for_read), for_weight, for_bias)
        d_x, d_weight, d_bias = linear_gradients(x.detach(), weight, grad, ctx.transposed, needs)
        d_read = iter(
            torch.autograd.grad(x, [y for y in read if y.requires_grad], d_x) if any(for_read) else ()
        )
        return None, d_weight, d_bias, None, *(next(d_read) if needed else None for needed in for_read)
