"""Norms and activations with the linear layers behind them, which keep for the backward pass the input of the norm or
the activation and not its output.

The outputs are a third of all that a layer would keep, and to compute them again takes a fiftieth of the layer's time
(the idea is Chen et al.'s, 2016, for whole layers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mistral.modeling_mistral import MistralMLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP
from transformers.pytorch_utils import Conv1D

from algos.engine.fast.products import FastConv1D, FastLinear, linear_gradients, linear_product

Activation = Callable[..., Tensor]

RECOMPUTED_FROM = 2**24
"""Numbers (64 MiB in fp32) in the outputs of all a model's activations, from which on these outputs, and those of its
norms, are computed again and not kept. Layers with adapters on them do not count: they keep their input."""

_TRANSPOSED: dict[type[nn.Module], bool] = {
    nn.Linear: False, FastLinear: False, Conv1D: True, FastConv1D: True,
}  # fmt: skip
"""Whether the weight is [in, out] instead of [out, in]."""


class _Light(nn.Module):
    """A feed-forward layer that may keep less for the backward pass."""

    last: ClassVar[str]
    """The name of the linear layer behind the activation."""
    together: int
    """Numbers a token in the outputs of all the model's activations."""

    def remakes(self, x: Tensor) -> bool:
        """Whether the outputs of norms and activations for tokens [..., H] are computed again in the backward pass."""
        if not torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return False
        return x.numel() // x.shape[-1] * self.together >= RECOMPUTED_FROM

    def behind(self, norm: nn.Module, x: Tensor) -> Tensor:
        """This layer of norm(x), [..., H] → [..., H]; the norm's output is computed again."""
        raise NotImplementedError


def keep_less(model: nn.Module) -> None:
    """From now on the model's feed-forward layers, where they are known, keep less for the backward pass."""
    found: list[Any] = [module for module in model.modules() if type(module) in _LIGHT]
    for module in found:
        module.__class__ = _LIGHT[type(module)]
    together = sum(_inputs(getattr(module, module.last)) for module in found)
    for module in found:
        module.together = together


def _inputs(linear: Any) -> int:
    transposed = _TRANSPOSED.get(type(linear))  # None for adapters and whatever else there may be
    return 0 if transposed is None else int(linear.weight.shape[0 if transposed else 1])


def fed(mlp: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """mlp(norm(x)), [..., H] → [..., H]."""
    if isinstance(mlp, _Light) and mlp.remakes(x) and not is_watched(norm, mlp):
        return mlp.behind(norm, x)
    given: Tensor = mlp(norm(x))
    return given


def projected(mlp: nn.Module, norm: nn.Module, x: Tensor, *linears: nn.Module) -> tuple[Tensor, ...]:
    """Each linear layer of norm(x), [..., H] → [..., its outputs]; `mlp` is the same layer's feed-forward part."""
    return _behind(norm, x, *linears, again=isinstance(mlp, _Light) and mlp.remakes(x))


def _behind(norm: nn.Module, x: Tensor, *linears: nn.Module, again: bool) -> tuple[Tensor, ...]:
    plain = all(type(linear) in _TRANSPOSED for linear in linears)
    if again and plain and not is_watched(norm, *linears):
        kinds = [_TRANSPOSED[type(linear)] for linear in linears]
        weights = chain.from_iterable((linear.weight, linear.bias) for linear in linears)
        found: tuple[Tensor, ...] = _Projected.apply(norm, kinds, x, *norm.parameters(), *weights)
        return found
    given = norm(x)
    return tuple(linear(given) for linear in linears)


def activated(linear: nn.Module, activation: Activation, *read: Tensor, again: bool) -> Tensor:
    """linear(activation(*read)), of tensors [..., K] → [..., N]; if `again`, the activation's output is not kept but
    computed again."""
    transposed = _TRANSPOSED.get(type(linear))
    if again and transposed is not None and not is_watched(linear):
        found: Tensor = _Activated.apply(activation, transposed, linear.weight, linear.bias, *read)
        return found
    given: Tensor = linear(activation(*read))
    return given


def is_watched(*modules: nn.Module) -> bool:
    """Whether a hook waits for a call of one of the modules."""
    return any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for module in modules
    )


class LightGPT2MLP(_Light, GPT2MLP):
    """transformers', keeping less."""

    last = "c_proj"

    def forward(self, hidden_states: Any) -> Tensor:
        return self._rest(self.c_fc(hidden_states), self.remakes(hidden_states))

    def behind(self, norm: nn.Module, x: Tensor) -> Tensor:
        (wide,) = _behind(norm, x, self.c_fc, again=True)
        return self._rest(wide, again=True)

    def _rest(self, wide: Tensor, again: bool) -> Tensor:
        return self.dropout(activated(self.c_proj, self.act, wide, again=again))


class _Gated(_Light):
    last = "down_proj"
    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: Activation

    def forward(self, x: Tensor) -> Tensor:
        again = self.remakes(x)
        return activated(self.down_proj, self._gate, self.gate_proj(x), self.up_proj(x), again=again)

    def behind(self, norm: nn.Module, x: Tensor) -> Tensor:
        wide = _behind(norm, x, self.gate_proj, self.up_proj, again=True)
        return activated(self.down_proj, self._gate, *wide, again=True)

    def _gate(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.act_fn(gate) * up


_OF_GATED: dict[type[nn.Module], type[_Light]] = {
    kind: type(
        f"Light{kind.__name__}",
        (_Gated, kind),
        {"__doc__": "transformers', keeping less.", "__module__": __name__},
    )
    for kind in (LlamaMLP, MistralMLP, Qwen2MLP, Qwen3MLP)
}
globals().update({kind.__name__: kind for kind in _OF_GATED.values()})  # where pickle looks for them
GATED = tuple(_OF_GATED.values())
"""Feed-forward layers of down(activation(gate(x)) · up(x))."""
_LIGHT: dict[type[nn.Module], type[_Light]] = {GPT2MLP: LightGPT2MLP} | _OF_GATED


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        activation: Activation,
        transposed: bool,
        weight: Tensor,
        bias: Tensor | None,
        *read: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(weight, *read)
        ctx.activation, ctx.transposed = activation, transposed
        return linear_product(activation(*read), weight, bias, transposed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *read = ctx.saved_tensors
        _, _, for_weight, for_bias, *for_read = ctx.needs_input_grad
        x, read = _made_again(ctx.activation, read, for_read)
        needs = (any(for_read), for_weight, for_bias)
        d_x, d_weight, d_bias = linear_gradients(x.detach(), weight, grad, ctx.transposed, needs)
        return None, None, d_weight, d_bias, *_gradients(x, read, d_x)


class _Projected(torch.autograd.Function):
    """Linear layers behind a norm. The norm's parameters count as inputs: they get their gradients when the norm is
    computed again."""

    @staticmethod
    def forward(
        ctx: Any, norm: nn.Module, transposed: Sequence[bool], x: Tensor, *parameters: Any
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *parameters)
        ctx.norm, ctx.transposed, ctx.own = norm, transposed, len(parameters) - 2 * len(transposed)
        given, of_linears = norm(x), parameters[ctx.own :]
        return tuple(
            linear_product(given, weight, bias, kind)
            for weight, bias, kind in zip(of_linears[::2], of_linears[1::2], transposed, strict=True)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        of_norm, of_linears = parameters[: ctx.own], parameters[ctx.own :]
        _, _, for_x, *needed = ctx.needs_input_grad
        for_norm, for_linears = needed[: ctx.own], needed[ctx.own :]
        given, (x,) = _made_again(ctx.norm, [x], [for_x])
        read = [x, *(p if need else p.detach() for p, need in zip(of_norm, for_norm, strict=True))]
        d_given: Tensor | None = None
        d_linears: list[Tensor | None] = []
        for i, grad in enumerate(grads):
            needs = (given.requires_grad, *for_linears[2 * i : 2 * i + 2])
            d_x, *d_both = linear_gradients(given.detach(), of_linears[2 * i], grad, ctx.transposed[i], needs)
            d_given = d_x if d_given is None or d_x is None else d_given.add_(d_x)
            d_linears += d_both
        return None, None, *_gradients(given, read, d_given), *d_linears


def _made_again(
    function: Activation, read: Sequence[Tensor], needed: Sequence[bool]
) -> tuple[Tensor, list[Tensor]]:
    """function(*read) with its graph, and what it read, detached from what came before."""
    with torch.enable_grad():
        read = [x.detach().requires_grad_(need) for x, need in zip(read, needed, strict=True)]
        return function(*read), read


def _gradients(given: Tensor, read: Sequence[Tensor], d_given: Tensor | None) -> list[Tensor | None]:
    """The gradients of what was read, where it requires one."""
    wanted = [x for x in read if x.requires_grad]
    # A wrapped norm may have parameters that it does not read.
    found = iter(torch.autograd.grad(given, wanted, d_given, allow_unused=True) if wanted else ())
    return [next(found) if x.requires_grad else None for x in read]
