"""Matrix products through oneDNN, where it is faster than MKL, through which torch multiplies fp32.

MKL keeps to AVX2 on processors that are not Intel's. oneDNN, which is part of torch too and multiplies its bf16, does
not. Its fp32 products take half the time on an AMD EPYC of family 26, which computes vectors of 512 bits at once, and a
tenth less on one of family 25 with AVX-512, which it computes in halves; on an Intel Xeon MKL's take less. Products of
a few rows with weights in oneDNN's own layout, as in decoding, take two fifths of MKL's time on the first, a third to
two thirds on a processor with AVX2 alone and three quarters to nine tenths on Intel's (docs/benchmarks.md). Both
libraries add in fp32, each in its own order. Shapes have BLAS's letters: [M, K] times [K, N].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from algos.engine.fast.processor import processor

MIN_PRODUCTS = 2**22
"""Multiplications below which preparing oneDNN's kernel for a new shape costs more than it saves."""
MIN_HALVED = 3 * 10**8
"""Likewise where it saves a tenth: with vectors of 512 bits that are computed in halves."""
NEVER = math.inf


@cache
def available() -> bool:
    """Whether this processor and this version of torch have oneDNN's products."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


@cache
def least_products() -> float:
    """Multiplications in a product from which oneDNN is faster even with weights in torch's layout. `NEVER` except on
    AMD's processors with AVX-512: on others MKL is as fast, or it has not been measured."""
    wide = available() and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    if not (wide and processor().vendor == "AuthenticAMD"):
        return NEVER
    return MIN_PRODUCTS if processor().family >= 26 else MIN_HALVED


def through_onednn() -> bool:
    """Whether large products on a CPU go through oneDNN now. In half precision they always do."""
    return least_products() < NEVER or torch.is_autocast_enabled("cpu")


@cache
def multiplies_bf16() -> bool:
    """Whether oneDNN has products in bf16 for this processor."""
    return available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def product(a_MK: Tensor, b_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """a bᵀ + bias [M, N], without gradient; a and b may be transposed views."""
    if _suits(a_MK, b_NK, len(b_NK)):
        return _onednn(a_MK, b_NK, bias_N)
    return F.linear(a_MK, b_NK, bias_N)


def wide_product(a_MK: Tensor, b_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """a bᵀ + bias [M, N] in at least fp32, without gradient. For factors in half precision a GPU returns its fp32 sums;
    a CPU first rounds them to half precision."""
    wide = torch.promote_types(a_MK.dtype, torch.float32)
    if a_MK.device.type != "cuda" or a_MK.dtype == wide:
        return product(a_MK, b_NK, bias_N).to(wide)
    found = torch.mm(a_MK, b_NK.t(), out_dtype=wide)
    return found if bias_N is None else found.add_(bias_N)


def add_product(total_MN: Tensor, a_MK: Tensor, b_NK: Tensor) -> None:
    """total += a bᵀ [M, N], without gradient; the total may be of a wider type."""
    if total_MN.dtype != a_MK.dtype or _suits(a_MK, b_NK, len(b_NK)):
        total_MN += product(a_MK, b_NK)
    else:
        total_MN.addmm_(a_MK, b_NK.t())


def put_product(place_MN: Tensor, a_MK: Tensor, b_NK: Tensor, b_KN: Tensor) -> None:
    """place ← a bᵀ [M, N], without gradient, where a is a transposed view. `b_NK` and `b_KN` are one matrix and its
    transpose, both contiguous. Through oneDNN b aᵀ is computed and transposed, as oneDNN wants its first factor
    contiguous; MKL writes the product as it is."""
    if _suits(b_NK, a_MK, len(a_MK)):
        place_MN.copy_(product(b_NK, a_MK).t())
    elif place_MN.dtype == a_MK.dtype:
        torch.mm(a_MK, b_KN, out=place_MN)
    else:
        place_MN.copy_(a_MK @ b_KN)


def multiply_fast(model: nn.Module) -> None:
    """From now on the model's linear layers multiply through oneDNN where that is faster. Their parameters and names
    stay, and `isinstance` finds their old classes."""
    if available():
        for module in model.modules():
            module.__class__ = _FAST.get(type(module), type(module))


@contextmanager
def packed(model: nn.Module, rows: int) -> Iterator[None]:
    """The block, without gradient and in which no weight changes, for products of about so many rows. Weights are
    copied into oneDNN's layout once, which takes as long as two products; under autocast, in its precision."""
    dtype = multiplied_in("cpu", torch.float32)
    layers = [layer for layer in _packable(model, rows, dtype) if _on_cpu(layer)]
    try:
        for layer in layers:
            # All numbers of rows have the same layout, except one row.
            matrix = layer.matrix.to(dtype).contiguous()
            layer.packed = torch.ops.mkldnn._reorder_linear_weight(matrix, max(2, rows))
        yield
    finally:
        for layer in layers:
            layer.packed = None


def packed_bytes(model: nn.Module, rows: int, dtype: torch.dtype) -> int:
    """Bytes that `packed` takes on a CPU, for products in this precision."""
    return sum(layer.weight.numel() for layer in _packable(model, rows, dtype)) * dtype.itemsize


def multiplied_in(device: str, dtype: torch.dtype) -> torch.dtype:
    """The precision in which tensors of this type are multiplied on this kind of device: autocast's, if it is on."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype


def rounds_sums(device: str) -> bool:
    """Whether this kind of device now rounds products of fp32 tensors to half precision, though it could return their sums
    in fp32 (`wide_product`): a GPU under autocast."""
    return device == "cuda" and multiplied_in(device, torch.float32) != torch.float32


class _Fast(nn.Module):
    """What linear layers share, whichever way their weight is laid out."""

    transposed = False
    """Whether the weight is [in, out] instead of [out, in]."""
    packed: Tensor | None = None
    weight: Any
    bias: Any

    @property
    def matrix(self) -> Tensor:
        """[out, in]"""
        weight = self.weight.detach()
        return weight.t() if self.transposed else weight

    def through_onednn(self, x: Tensor) -> Tensor | None:
        """The layer's output, [..., in] → [..., out]; None where torch's own product is the faster one."""
        packed = self.of_packed()
        if packed is not None:
            return packed(x)
        suits = _suits(x, self.weight, self.weight.shape[self.transposed])
        if suits and not torch.is_autocast_enabled("cpu"):
            found: Tensor = _Linear.apply(x, self.weight, self.bias, self.transposed)
            return found
        return None

    def of_packed(self, then: Literal["none", "gelu"] = "none") -> Callable[[Tensor], Tensor] | None:
        """The layer as a function over its packed weights, with "gelu" followed by GELU (the tanh approximation) in the
        same pass; None outside `packed`."""
        if self.packed is None:
            return None
        packed, dtype = self.packed, self.packed.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return lambda x: _onednn(x.to(dtype), packed, bias, then)


class FastLinear(_Fast, nn.Linear):
    """torch's, through oneDNN."""

    def forward(self, input: Tensor) -> Tensor:
        found = self.through_onednn(input)
        return super().forward(input) if found is None else found


class FastConv1D(_Fast, Conv1D):
    """transformers' linear layer with a transposed weight, through oneDNN."""

    transposed = True

    def forward(self, x: Tensor) -> Tensor:
        found = self.through_onednn(x)
        return super().forward(x) if found is None else found


_FAST: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: FastLinear, Conv1D: FastConv1D}


class _Linear(torch.autograd.Function):
    """x Wᵀ + b, or x W + b for a transposed weight [in, out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.transposed = transposed
        return linear_product(x, weight, bias, transposed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *linear_gradients(x, weight, grad, ctx.transposed, ctx.needs_input_grad[:3]), None


def linear_product(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    """A linear layer of [..., in] → [..., out], without gradient; `weight` [in, out] if transposed, else [out, in]."""
    matrix = weight.t() if transposed else weight
    return product(x.reshape(-1, x.shape[-1]), matrix, bias).view(*x.shape[:-1], len(matrix))


def linear_gradients(
    x: Tensor, weight: Tensor, grad: Tensor, transposed: bool, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of a linear layer's input, weight and bias, where needed, from that of its output [..., out];
    `weight` [in, out] if transposed, else [out, in]."""
    for_x, for_weight, for_bias = needed
    x_MK, grad_MN = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
    return (
        product(grad_MN, weight if transposed else weight.t()).view(x.shape) if for_x else None,
        _summed(*(x_MK, grad_MN) if transposed else (grad_MN, x_MK)) if for_weight else None,
        grad_MN.sum(0) if for_bias else None,
    )


def _summed(a_MA: Tensor, b_MB: Tensor) -> Tensor:
    """aᵀ b [A, B]. oneDNN copies its first factor to make it contiguous: so that is the one that takes less to copy."""
    sooner = b_MB.numel() + a_MA.shape[1] * b_MB.shape[1] < a_MA.numel()
    if sooner and _suits(b_MB.t(), a_MA.t(), a_MA.shape[1]):
        return product(b_MB.t(), a_MA.t()).t()
    return product(a_MA.t(), b_MB.t())


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, then: str = "none") -> Tensor:
    """x Wᵀ + b through the operation that torch's compiler uses, [..., in] → [..., out]; `weight` [out, in], or
    packed."""
    how = "tanh" if then == "gelu" else ""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], how)
    return found


def _suits(x: Tensor, weight: Tensor, outputs: int) -> bool:
    """Whether a product with so many outputs a row is to go through oneDNN."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() * outputs >= least_products()
    )


def _packable(model: nn.Module, rows: int, dtype: torch.dtype) -> list[_Fast]:
    """Layers that packing makes faster, for products in this precision; none where the processor cannot multiply in
    it."""
    if dtype != torch.float32 and not multiplies_bf16():
        return []
    layers = [layer for layer in model.modules() if isinstance(layer, _Fast)]
    return [x for x in layers if x.weight.dtype == torch.float32 and rows * x.weight.numel() >= MIN_PRODUCTS]


def _on_cpu(layer: _Fast) -> bool:
    return layer.weight.device.type == "cpu"
