"""Norms as one operation: what transformers' several compute, gradients and half precision too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from algos.engine.fast.norms import RMS_NORMS, fuse_norms
from algos.engine.fast.parts import function_of


def both(kind: Any) -> tuple[nn.Module, nn.Module]:
    """transformers' and the fused one, of the same weights."""
    norms = [kind(32, eps=1e-3).eval() for _ in range(2)]
    for norm in norms:
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    fuse_norms(norms[1])
    assert type(norms[1]) in RMS_NORMS
    assert isinstance(norms[1], kind)
    return norms[0], norms[1]


def outcome(norm: nn.Module, x: Tensor) -> list[Any]:
    x = x.clone().requires_grad_()
    y = norm(x)
    y.square().sum().backward()
    return [y, x.grad, *(p.grad for p in norm.parameters())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm])
def test_the_same_numbers(kind: Any, dtype: torch.dtype) -> None:
    """What autocast multiplied is normalised as transformers does it, and so is float64."""
    norm, fused = both(kind)
    if dtype == torch.float64:
        norm, fused = norm.double(), fused.double()
    x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected, found = outcome(norm, x), outcome(fused, x)
    assert torch.equal(found[0], expected[0])
    assert found[0].dtype == expected[0].dtype
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other)


def test_the_function_of_one() -> None:
    _, fused = both(LlamaRMSNorm)
    function = function_of(fused)
    assert function is not fused
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(5, 32).to(dtype)
        assert torch.equal(function(x), fused(x))
