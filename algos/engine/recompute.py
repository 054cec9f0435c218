"""Gradient checkpointing (Chen et al. 2016): activations that are computed again in the backward pass, not kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from algos.engine.errors import UserError


def recomputable(model: nn.Module) -> list[nn.Module]:
    """The layers whose activations can be dropped in the forward pass and computed again in the backward."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def require_recomputable(model: nn.Module) -> None:
    """Raises UserError where gradient checkpointing would save nothing."""
    if not recomputable(model):
        kind = type(getattr(model, "base_model", model)).__name__
        raise UserError(
            f"{kind} has no layers that gradient checkpointing could recompute. Leave --gradient-checkpointing out."
        )


@contextmanager
def recomputed(*models: nn.Module | None) -> Iterator[None]:
    """The block in whose forward and backward passes it is on.

    transformers' own switch works in training mode alone, which would turn dropout on.
    """
    layers: list[Any] = [layer for model in models if model is not None for layer in recomputable(model)]
    for layer in layers:
        # No random numbers are drawn inside (dropout is off), so there is no state of theirs to restore.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own shows again


def is_recomputed(model: nn.Module) -> bool:
    """Whether gradient checkpointing is on: what a layer writes to a cache it would write twice."""
    return any("forward" in vars(layer) for layer in recomputable(model))
