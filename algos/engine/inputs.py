"""What a forward pass is given, and the precision it multiplies in."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from algos.engine.head import unwrapped


@lru_cache(maxsize=64)
def _parameters(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]


def accepts(model: Any, name: str) -> bool:
    """Whether the model's forward has this argument (BLOOM, say, has no `position_ids`)."""
    kind: Any = type(unwrapped(model))
    return name in _parameters(kind)


def positions(attention_mask: Tensor) -> Tensor:
    """Position ids from the mask, so that padding on the left moves nothing. [B, S] → [B, S]."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def inputs_for(model: Any, ids_BN: Tensor, mask_BS: Tensor, cache: Any = None) -> dict[str, Any]:
    """What the forward of a model or its trunk is given to read tokens that stand at the end of the mask: whole
    rows (N = S), or what follows the keys and values in the cache."""
    inputs: dict[str, Any] = {"input_ids": ids_BN, "attention_mask": mask_BS.long(), "use_cache": False}
    if cache is not None:
        inputs |= {"past_key_values": cache, "use_cache": True}
    if accepts(model, "position_ids"):
        inputs["position_ids"] = positions(mask_BS)[:, -ids_BN.shape[1] :]
    return inputs


@contextmanager
def precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """bf16 matrix products on fp32 weights where asked for; softmax and losses stay in fp32."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        yield
