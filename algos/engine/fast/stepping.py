"""Decoding through a model's layers, one token a step."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from algos.engine.fast.attention import attend_from_one
from algos.engine.fast.cache import with_room
from algos.engine.fast.layers import Direct, DirectModel
from algos.engine.fast.masks import padding_bias
from algos.engine.memory import tokens_at_once


class LayerStepper:
    """A running batch: prompts [P, L], padded on the left, and the prompt of each row, [B]."""

    def __init__(self, layers: DirectModel, ids_PL: Tensor, mask_PL: Tensor, group_B: Tensor) -> None:
        self.ids, self.mask, self.group = ids_PL, mask_PL, group_B
        self.bare = layers.bare()
        self.reader: Direct = layers

    def prefill(self) -> Tensor:
        P, L = self.ids.shape
        at_once = max(1, tokens_at_once(self.ids.device, backward=False) // L)
        parts = [slice(i, i + at_once) for i in range(0, P, at_once)]
        hidden, read = zip(*(self.reader.of_prompts(self.ids[x], self.mask[x]) for x in parts), strict=True)
        hidden_BH = torch.cat(hidden)[self.group]
        self.keys, self.values = (
            [
                torch.cat([each[which] for each in of_layer])[self.group]
                for of_layer in zip(*read, strict=True)
            ]
            for which in (0, 1)
        )
        mask_BL, heads, self.tokens = self.mask[self.group], self.keys[0].shape[1], L
        self.position = mask_BL.sum(-1)
        self.bias = padding_bias(mask_BL[:, None], hidden_BH.dtype).expand(-1, heads, -1, -1)
        return self.bare.head(hidden_BH)

    def step(self, token_B: Tensor) -> Tensor:
        bare = self.bare
        if self.tokens == self.bias.shape[-1]:
            self._make_room()
        self.tokens += 1
        bias = self.bias[..., : self.tokens]
        x_BH, rotation = bare.embed(token_B, self.position)
        for layer, keys, values in zip(bare.layers, self.keys, self.values, strict=True):
            x_BH = layer(x_BH, rotation, partial(self._attend, keys, values, bias))
        self.position = self.position + 1
        return bare.head(bare.norm(x_BH))

    def _attend(
        self,
        keys: Tensor,
        values: Tensor,
        bias: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
    ) -> Tensor:
        """Writes the new token's keys and values [B, A, D] behind those of a layer, [B, A, room, D], and attends from
        its queries [B, heads, D] to all → [B, heads·D]."""
        S = self.tokens
        keys[:, :, S - 1], values[:, :, S - 1] = key, value
        return attend_from_one(query, keys[:, :, :S], values[:, :, :S], bias, scale)

    def keep(self, rows: Tensor) -> None:
        self.position = self.position[rows]
        # Without room: rows may leave at every token, and the room would be copied each time.
        self.bias = self.bias[..., : self.tokens].index_select(0, rows)
        for states in (self.keys, self.values):
            states[:] = [whole[:, :, : self.tokens].index_select(0, rows) for whole in states]

    def _make_room(self) -> None:
        for states in (self.keys, self.values):
            states[:] = [with_room(whole, self.tokens, self.tokens + 1) for whole in states]
        self.bias = F.pad(self.bias, (0, self.keys[0].shape[2] - self.tokens))  # zeros: may be attended to
