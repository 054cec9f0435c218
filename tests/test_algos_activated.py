"""Activations that are made again: the same gradients, less kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import gpt2, llama, rollouts_of, tiny_policy
from torch import Tensor, nn

from algos.engine.fast import activated
from algos.engine.fast.activated import fed, keep_less, projected
from algos.engine.fast.products import multiply_fast
from algos.engine.forward import forward

Call = Callable[[Tensor], Tensor]


def feed_forward(kind: str) -> nn.Module:
    if kind == "gpt2":
        return gpt2(16).transformer.h[0].mlp.eval()
    return llama(16).model.layers[0].mlp.eval()


def gradients(layer: nn.Module, x: Tensor, call: Call | None = None) -> tuple[list[Tensor], int]:
    """Output and gradients of input and weights; and how many numbers were kept for them, weights aside."""
    x, weights = x.clone().requires_grad_(), list(layer.parameters())
    kept = {w.untyped_storage()._cdata: 0 for w in weights}

    def keep(saved: Tensor) -> Tensor:
        kept.setdefault(saved.untyped_storage()._cdata, saved.numel())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        y = (call or layer)(x)
    wanted = [x, *(w for w in weights if w.requires_grad)]
    return [y.detach(), *torch.autograd.grad(y.square().sum(), wanted)], sum(kept.values())


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("fast", [False, True])
def test_the_same_gradients_from_less(kind: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activated, "RECOMPUTED_FROM", 1)
    layer, x = feed_forward(kind), torch.randn(3, 5, 16)
    expected, before = gradients(layer, x)
    if fast:
        multiply_fast(layer)
    keep_less(layer)
    found, kept = gradients(layer, x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    width = 64 if kind == "gpt2" else 24
    assert before - kept >= 15 * width  # at the least what the activation gives, 15 tokens


def a_layer(kind: str) -> tuple[nn.Module, nn.Module, nn.Module, list[nn.Module]]:
    """A layer, its first norm and feed-forward part, and the projections behind the norm."""
    if kind == "gpt2":
        block = gpt2(16).transformer.h[0].eval()
        return block, block.ln_1, block.mlp, [block.attn.c_attn]
    block = llama(16).model.layers[0].eval()
    heads = block.self_attn
    return block, block.input_layernorm, block.mlp, [heads.q_proj, heads.k_proj, heads.v_proj]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_norms_are_made_again_too(
    kind: str, frozen: bool, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before attention's projections and before the feed-forward part."""
    monkeypatch.setattr(activated, "RECOMPUTED_FROM", 1)
    x = torch.randn(7, 16)

    def found(less: bool) -> list[tuple[list[Tensor], int]]:
        block, norm, mlp, projections = a_layer(kind)
        for p in norm.parameters():
            nn.init.normal_(p, generator=torch.Generator().manual_seed(0))
        if frozen:
            norm.requires_grad_(False)
            projections[0].requires_grad_(False)
        if fast:
            multiply_fast(block)
        if less:
            keep_less(block)
        return [
            gradients(
                nn.ModuleList([norm, *projections]),
                x,
                lambda x: torch.cat(projected(mlp, norm, x, *projections), dim=-1),
            ),
            gradients(nn.ModuleList([norm, mlp]), x, lambda x: fed(mlp, norm, x)),
        ]

    for (expected, before), (right, kept) in zip(found(False), found(True), strict=True):
        torch.testing.assert_close(right, expected, atol=1e-5, rtol=1e-5)
        # At the least what the norm gives; a frozen layer alone behind it needs nothing of that.
        assert before - kept >= x.numel() or (frozen and kept <= before)


def test_frozen_weights_and_narrow_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = feed_forward("llama"), torch.randn(3, 16)
    layer.down_proj.requires_grad_(False)
    expected, before = gradients(layer, x)
    keep_less(layer)
    found, kept = gradients(layer, x)
    assert kept == before  # too narrow
    torch.testing.assert_close(found, expected)
    monkeypatch.setattr(activated, "RECOMPUTED_FROM", 1)
    found, kept = gradients(layer, x)
    assert kept < before
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_whole_models(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = rollouts_of([[3, 2, 1], [1, 2]], [[[1, 2, 0], [2, 0]], [[1, 1, 0], [0]]])
    remakes, remade = activated._Light.remakes, list[bool]()

    def watched(self: activated._Light, x: Tensor) -> bool:
        remade.append(remakes(self, x))
        return remade[-1]

    def found() -> dict[str, Any]:
        model = tiny_policy(kind, double=True).model
        forward(model, rollouts, 1.0, torch.float64).logps_PGT.sum().backward()
        return {name: p.grad for name, p in model.named_parameters()}

    monkeypatch.setattr(activated._Light, "remakes", watched)
    plain = found()
    assert remade
    assert not any(remade)
    monkeypatch.setattr(activated, "RECOMPUTED_FROM", 1)
    torch.testing.assert_close(found(), plain, atol=1e-6, rtol=1e-4)
    assert any(remade)


def test_other_precisions_and_adapters_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activated, "RECOMPUTED_FROM", 1)
    monkeypatch.setattr(activated._Activated, "apply", None)
    layer, x = feed_forward("gpt2"), torch.randn(3, 16)
    keep_less(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    layer.c_proj = nn.Sequential(layer.c_proj)  # as an adapter wraps it
    layer(x).sum().backward()


def test_who_waits_for_the_layer_to_be_called_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activated, "RECOMPUTED_FROM", 1)
    layer, x = feed_forward("llama"), torch.randn(3, 16, requires_grad=True)
    keep_less(layer)
    layer.down_proj.register_forward_hook(lambda _, inputs, out: out + 1)
    y = layer(x)
    assert torch.equal(
        y.detach(), layer.down_proj(layer._gate(layer.gate_proj(x), layer.up_proj(x))).detach()
    )
