"""Faster kernels for a model's layers."""

from __future__ import annotations

from torch import nn
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation

from algos.engine.fast.activated import keep_less
from algos.engine.fast.heap import keep_few_kernels, keep_freed
from algos.engine.fast.norms import fuse_norms
from algos.engine.fast.products import multiply_fast


def patch_kernels(model: nn.Module) -> None:
    """Replaces kernels in the model's layers by faster ones; its outputs stay the same but for rounding."""
    keep_freed()
    keep_few_kernels()
    fuse_activations(model)
    fuse_norms(model)
    multiply_fast(model)
    keep_less(model)


def fuse_activations(model: nn.Module) -> None:
    """Replaces GPT-2's and others' GELU, which is written as operations of its own, by torch's (Hendrycks and Gimpel
    2016, the tanh approximation): one pass over memory instead of eight, and no seven copies of the widest
    activations."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) in (NewGELUActivation, FastGELUActivation):
                setattr(module, name, GELUTanh())
