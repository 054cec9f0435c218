"""What a forward pass is given, and the precision it multiplies in."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ALIGNED = 16
"""Tokens. Attention's kernels copy a mask whose rows are no multiple of so many numbers."""


def unwrapped(model: Any) -> Any:
    """The transformers model, whether or not adapters are wrapped around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


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


def aligned(ids_BS: Tensor, mask_BS: Tensor, model: Any) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, S] as they are; on a GPU `lengthened`, so that lengths come again: for every new shape libraries
    choose and prepare kernels anew (docs/benchmarks.md)."""
    return (ids_BS, mask_BS) if ids_BS.device.type == "cpu" else lengthened(ids_BS, mask_BS, model)


def lengthened(ids_BS: Tensor, mask_BS: Tensor, model: Any) -> tuple[Tensor, Tensor]:
    """Padded on the left, [B, S] → [B, a multiple of `ALIGNED`], if the model takes so many tokens."""
    S, most = ids_BS.shape[1], max_positions(unwrapped(model).config)
    missing = -S % ALIGNED
    if most is not None and S + missing > most:
        return ids_BS, mask_BS
    return F.pad(ids_BS, (missing, 0)), F.pad(mask_BS, (missing, 0))


def max_positions(config: Any) -> int | None:
    """The longest sequence that a model has positions for; None where it has no such limit.

    Where rotary factors go with the longest text of a batch (`depends_on_batch`), as many as have the same ones whatever
    is beside them: LongRoPE's `original_max_position_embeddings`, with dynamic scaling `max_position_embeddings`.
    """
    names, config = ("max_position_embeddings", "n_positions", "max_seq_len"), config.get_text_config()
    # XLNet says -1 where it has none.
    limits = [limit for name in names if (limit := getattr(config, name, None) or 0) > 0][:1]
    longrope = (rope for rope in _ropes(config) if rope["rope_type"] == "longrope")
    originals = [limit for rope in longrope if (limit := rope.get("original_max_position_embeddings"))]
    return min(limits + originals, default=None)


def depends_on_batch(config: Any) -> bool:
    """Whether rotary factors are chosen in each forward pass, by the longest text of its batch."""
    ropes = _ropes(config.get_text_config())
    return any(rope["rope_type"] == "longrope" or "dynamic" in rope["rope_type"] for rope in ropes)


def _ropes(config: Any) -> list[Mapping[str, Any]]:
    """The parameters of rotary embeddings: of all layers, or of each kind of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    nested = [found] if "rope_type" in found else list(found.values())
    return [rope for rope in nested if isinstance(rope, Mapping) and "rope_type" in rope]


def embedding_rows(model: Any) -> int:
    """How many token ids the model can read, those below it: a tokenizer with tokens added may have more. `sys.maxsize`
    where the model does not say."""
    try:
        return int(unwrapped(model).get_input_embeddings().weight.shape[0])
    except (NotImplementedError, AttributeError):
        return sys.maxsize


@contextmanager
def precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """bf16 matrix products on fp32 weights where asked for; softmax and losses stay in fp32."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        yield


@contextmanager
def trunk_precision(trunk: Any, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """The block in which the trunk multiplies as under `precision`, and what reads its output does so in fp32: a head's one
    number a text, rounded to bf16, has three digits."""
    if dtype != torch.bfloat16:
        yield
        return
    whole = trunk.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with precision(device, dtype):
            output = whole(*args, **kwargs)
        for name, x in list(output.items()):
            if isinstance(x, Tensor) and x.is_floating_point():
                output[name] = x.float()
        return output

    trunk.forward = forward
    try:
        yield
    finally:
        del trunk.forward


@contextmanager
def full_precision() -> Iterator[None]:
    """The block in which fp32 is multiplied in fp32, whatever `torch.set_float32_matmul_precision` says: the rounding of
    TF32 or bf16 is as large as what a model's checks look for."""
    # Not by that function, which refuses to tell what is set where part of it was set by backend.
    known: Any = torch.backends
    backends = known.cuda.matmul, known.mkldnn.matmul
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value
