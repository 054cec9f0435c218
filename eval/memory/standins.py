"""Tensors without data: what a computation would hold in memory, found without holding it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from algos import LoRA
from algos.engine.rollouts import Rollouts


@contextmanager
def stand_ins() -> Iterator[None]:
    """Tensors made inside have shapes and no data."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    class Mode(FakeTensorMode):
        def __deepcopy__(self, _: Any) -> Mode:
            return self  # copies of a model's tensors belong to the same block

    log = logging.getLogger("torch._subclasses.fake_tensor")  # says at length what is raised anyway
    before, log.disabled = log.disabled, True
    try:
        with Mode():
            yield
    finally:
        log.disabled = before


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside the block held at once, beside the weights of these models and
    what shares their memory; with `widened`, as if bf16 were fp32."""

    def __init__(self, *models: nn.Module | None, widened: bool = False) -> None:
        super().__init__()
        self.widened = widened
        self.bytes = self._held = 0
        weights = (
            p for model in models if model is not None for p in (*model.parameters(), *model.buffers())
        )
        self._known = {p.untyped_storage()._cdata for p in weights}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                twice = self.widened and tensor.dtype == torch.bfloat16
                self._hold(tensor.untyped_storage(), 2 if twice else 1)
        return out

    def _hold(self, storage: Any, times: int) -> None:
        key, size = storage._cdata, times * storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self._held += size
            self.bytes = max(self.bytes, self._held)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._held -= size


class FullRollouts(Rollouts):
    """Every place holds a token: which do cannot be asked of tensors without data."""

    is_padded = False

    @cached_property
    def places_N(self) -> Tensor:
        return torch.arange(self.mask_PGT.numel())


@torch.no_grad()
def has_linear_head(model: Any) -> bool:
    """What `algos.engine.fast.head.linear_head` tries out on data, told by whose memory it is: whether the head reads
    the trunk's last hidden states as they are, and whether what it gives are the logits. No where either is a copy."""
    seen: list[Tensor] = []
    head = model.get_output_embeddings()
    handles = [
        model.base_model.register_forward_hook(lambda _, inputs, out: seen.append(out.last_hidden_state)),
        head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])),
        head.register_forward_hook(lambda _, inputs, out: seen.append(out)),
    ]
    try:
        seen.append(model(input_ids=torch.zeros(1, 2, dtype=torch.long), use_cache=False).logits)
    finally:
        for handle in handles:
            handle.remove()
    return len(seen) == 4 and _same(*seen[:2]) and _same(*seen[2:])


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.untyped_storage()._cdata == other.untyped_storage()._cdata


def with_trained(model: Any, lora: LoRA | None) -> tuple[Any, int]:
    """The model as it is trained, and how many weights are. Adapters are made by hand: peft moves weights
    from device to device, which stand-ins do not allow."""
    if lora is None:
        return model, sum(p.numel() for p in model.parameters())
    from transformers.pytorch_utils import Conv1D

    model.requires_grad_(False)
    trained, head = 0, model.get_output_embeddings()
    for name, layer in model.named_modules():
        named = lora.targets == "all-linear" or name.split(".")[-1] in lora.targets.split(",")
        if named and isinstance(layer, (nn.Linear, Conv1D)) and layer is not head:
            wide = layer.weight.shape if isinstance(layer, Conv1D) else layer.weight.shape[::-1]
            down, up = (
                nn.Linear(*sides, bias=False) for sides in ((wide[0], lora.rank), (lora.rank, wide[1]))
            )
            trained += down.weight.numel() + up.weight.numel()
            layer.register_forward_hook(lambda _, inputs, out, down=down, up=up: out + up(down(inputs[0])))
    return model, trained
