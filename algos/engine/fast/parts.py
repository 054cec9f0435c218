"""The parts of known layers: as modules that are called, or as the functions that these modules compute.

To call a module takes longer than to compute one token a row of a small model: hooks and attributes are looked up, and
our own layers choose again how to multiply. While no weight changes, all of this can be done once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import GELUTanh, SiLUActivation
from transformers.pytorch_utils import Conv1D

from algos.engine.fast.activated import GATED, LightGPT2MLP, fed, is_watched, projected
from algos.engine.fast.norms import RMS_NORMS, reads_fp32
from algos.engine.fast.products import FastConv1D, FastLinear, multiplied_in, rounds_sums, wide_product

Module = Callable[[Tensor], Tensor]


class Parts(Protocol):
    """How a layer's parts are called; `owner` and `block` are modules that have them as attributes."""

    def part(self, owner: Any, name: str) -> Module:
        """The owner's module of this name."""
        ...

    def projected(
        self, block: Any, norm: str, owner: Any, *names: str
    ) -> Callable[[Tensor], Sequence[Tensor]]:
        """x [..., H] → each of the owner's linear layers of norm(x), [..., its outputs]."""
        ...

    def fed(self, block: Any, norm: str) -> Module:
        """x [..., H] → the block's feed-forward part of norm(x), [..., H]."""
        ...


class AsModules:
    """Parts are looked up at every call: an adapter may have taken their place."""

    def part(self, owner: Any, name: str) -> Module:
        return partial(_call, owner, name)

    def projected(
        self, block: Any, norm: str, owner: Any, *names: str
    ) -> Callable[[Tensor], Sequence[Tensor]]:
        def call(x: Tensor) -> Sequence[Tensor]:
            return projected(block.mlp, getattr(block, norm), x, *(getattr(owner, name) for name in names))

        return call

    def fed(self, block: Any, norm: str) -> Module:
        return lambda x: fed(block.mlp, getattr(block, norm), x)


class AsFunctions:
    """Parts are looked up now, and keep the weights that they have now; without gradient."""

    def part(self, owner: Any, name: str) -> Module:
        return function_of(getattr(owner, name))

    def projected(
        self, block: Any, norm: str, owner: Any, *names: str
    ) -> Callable[[Tensor], Sequence[Tensor]]:
        normed, linears = self.part(block, norm), together([getattr(owner, name) for name in names])
        return lambda x: linears(normed(x))

    def fed(self, block: Any, norm: str) -> Module:
        normed, mlp = self.part(block, norm), self.part(block, "mlp")
        return lambda x: mlp(normed(x))


def _call(owner: Any, name: str, x: Tensor) -> Tensor:
    y: Tensor = getattr(owner, name)(x)
    return y


def function_of(module: Any) -> Module:
    """What the module computes; the module itself where that is not known, and where hooks watch its calls."""
    if _is_plain(module):
        return _FUNCTIONS[type(module)](module)
    found: Module = _adapted(module) if _is_plain_adapter(module) else module
    return found


def wide_function_of(head: Any) -> Module:
    """`function_of` a head, whose logits [..., V] a GPU returns as it has added them up, in fp32 and not rounded to bf16:
    as training has them."""
    if not (_is_plain_linear(head) and rounds_sums(head.weight.device.type)):
        return function_of(head)
    weight, bias = _as_multiplied(head)

    def logits(x: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return wide_product(x.to(weight.dtype).flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])

    return logits


def _is_plain(module: nn.Module) -> bool:
    return type(module) in _FUNCTIONS and _does_as_its_class(module)


def _does_as_its_class(module: nn.Module) -> bool:
    return not ("forward" in vars(module) or module.training or is_watched(module))


def _is_plain_adapter(module: Any) -> bool:
    """Whether it is peft's LoRA layer, told by name as peft takes seconds to import, with one adapter switched on that is
    plain LoRA without dropout."""
    kind = type(module)
    if (kind.__module__, kind.__qualname__) != ("peft.tuners.lora.layer", "Linear"):
        return False
    if module.merged or module.disable_adapters or len(module.active_adapters) != 1:
        return False
    (name,) = module.active_adapters
    if name not in module.lora_A or name in module.lora_variant or not _does_as_its_class(module):
        return False
    dropout, parts = module.lora_dropout[name], (module.base_layer, module.lora_A[name], module.lora_B[name])
    # Of one precision: the layer would cast what it reads to that of the adapter.
    alike = len({part.weight.dtype for part in parts}) == 1
    return alike and type(dropout) is nn.Identity and not is_watched(dropout)


def _adapted(module: Any) -> Module:
    (name,) = module.active_adapters
    base, down, up = (
        function_of(part) for part in (module.base_layer, module.lora_A[name], module.lora_B[name])
    )
    scaling = module.scaling[name]
    return lambda x: base(x) + up(down(x)) * scaling


def _layer_norm(norm: Any) -> Module:
    shape, weight, bias, eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def _embedding(embedding: Any) -> Module:
    weight = embedding.weight
    return lambda ids: F.embedding(ids, weight)


def _rms_norm(norm: Any) -> Module:
    shape, weight, eps = norm.weight.shape, norm.weight, norm.variance_epsilon
    return lambda x: torch.rms_norm(x, shape, weight, eps) if reads_fp32(norm, x) else norm(x)


def _linear(linear: Any) -> Module:
    weight, bias = _as_multiplied(linear)
    return lambda x: F.linear(x, weight, bias)


def _conv1d(linear: Any) -> Module:
    weight, bias = _as_multiplied(linear)
    return lambda x: torch.addmm(bias, x, weight)


def together(linears: Sequence[Any]) -> Callable[[Tensor], Sequence[Tensor]]:
    """Linear layers of the same tensor, [..., H] → [..., outputs] each: a single product on a GPU, where each alone
    takes little more than its kernel's launch."""
    mergeable = len(linears) > 1 and all(_is_plain_on_gpu(linear) for linear in linears)
    if not mergeable or len({linear.bias is None for linear in linears}) > 1:
        functions = [function_of(linear) for linear in linears]
        return lambda x: [function(x) for function in functions]
    weights, biases = zip(*(_as_multiplied(linear) for linear in linears), strict=True)
    weight, bias = torch.cat(weights), None if biases[0] is None else torch.cat(biases)
    sizes = [len(each) for each in weights]
    return lambda x: F.linear(x, weight, bias).split(sizes, dim=-1)


def _is_plain_on_gpu(linear: Any) -> bool:
    return _is_plain_linear(linear) and bool(linear.weight.is_cuda)


def _is_plain_linear(linear: Any) -> bool:
    return type(linear) in (nn.Linear, FastLinear) and _is_plain(linear)


def _as_multiplied(linear: Any) -> tuple[Any, Any]:
    """Weight and bias in the precision to which autocast would cast them at every call."""
    weight, bias = linear.weight.detach(), linear.bias
    dtype = multiplied_in(weight.device.type, weight.dtype)
    return weight.to(dtype), None if bias is None else bias.detach().to(dtype)


def _fast(plain: Callable[[Any], Module]) -> Callable[[Any], Module]:
    return lambda linear: linear.of_packed() or plain(linear)


def _gpt2_mlp(mlp: Any) -> Module:
    # GELU in the same pass as the product before it, in decoding only. Elsewhere policy and reference go through the
    # same kernels, with gradient or without: by rounding alone they would differ before the first update.
    at_once = None
    if (
        type(mlp.c_fc) is FastConv1D
        and type(mlp.act) is GELUTanh
        and _is_plain(mlp.c_fc)
        and _is_plain(mlp.act)
    ):
        at_once = mlp.c_fc.of_packed("gelu")
    wide, act, out = (function_of(part) for part in (mlp.c_fc, mlp.act, mlp.c_proj))
    return (lambda x: out(act(wide(x)))) if at_once is None else (lambda x: out(at_once(x)))


def _gated_mlp(mlp: Any) -> Module:
    wide = together([mlp.gate_proj, mlp.up_proj])
    down, act = function_of(mlp.down_proj), function_of(mlp.act_fn)

    def feed(x: Tensor) -> Tensor:
        gate, up = wide(x)
        return down(act(gate) * up)

    return feed


_FUNCTIONS: dict[type[nn.Module], Callable[[Any], Module]] = {
    nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
    nn.Linear: _linear,
    FastLinear: _fast(_linear),
    Conv1D: _conv1d,
    FastConv1D: _fast(_conv1d),
    GELUTanh: lambda gelu: gelu.act,
    nn.SiLU: lambda _: F.silu,
    SiLUActivation: lambda _: F.silu,
    LightGPT2MLP: _gpt2_mlp,
    **dict.fromkeys(GATED, _gated_mlp),
    **dict.fromkeys(RMS_NORMS, _rms_norm),
}
