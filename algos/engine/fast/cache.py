"""A key-value cache with room to grow: a new token is written behind the others, without copying them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 16  # tokens: the least room that is made at once


class GrowingLayer(DynamicLayer):
    """transformers' `DynamicLayer` without its copy of the whole cache at every token: keys and values [rows, A,
    tokens, D] are views of tensors with room behind. Only `reorder_cache` may select rows."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        before, new = self.get_seq_length(), (key_states, value_states)
        tokens = before + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._whole = [with_room(states, 0, tokens) for states in new]
        if tokens > self._whole[0].shape[-2]:
            self._whole = [with_room(whole, before, tokens) for whole in self._whole]
        for whole, states in zip(self._whole, new, strict=True):
            whole[..., before:tokens, :] = states
        return self._show(tokens)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        if self.get_seq_length() > 0:
            # Without room: rows may leave at every token, and the room would be copied each time.
            tokens = self.get_seq_length()
            rows = beam_idx.to(self._whole[0].device)
            self._whole = [whole[..., :tokens, :].index_select(0, rows) for whole in self._whole]
            self._show(tokens)

    def _show(self, tokens: int) -> tuple[Tensor, Tensor]:
        keys, values = (whole[..., :tokens, :] for whole in self._whole)
        self.keys, self.values = keys, values
        return keys, values


def with_room(states: Tensor, kept: int, tokens: int) -> Tensor:
    """The states [..., tokens, D] of the first `kept` tokens, copied into a tensor with room for more than `tokens`."""
    *outer, _, width = states.shape
    whole = states.new_empty((*outer, tokens + max(ROOM, tokens // 2), width))
    whole[..., :kept, :] = states[..., :kept, :]
    return whole


def growing_cache(config: Any) -> DynamicCache:
    """A cache with the model's own kinds of layers (sliding windows, convolutions, recurrent states); plain ones have
    room to grow."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
