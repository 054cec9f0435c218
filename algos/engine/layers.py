"""A language model as layers that are called one by one: one token more for decoding, whole batches for training.

Tokens of prompts and of responses are multiplied together; only attention has to tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from algos.engine.attention import Texts, attend_after_cached
from algos.engine.cache import GrowingLayer
from algos.engine.inputs import positions
from algos.engine.rollouts import Rollouts

Module = Callable[[Tensor], Tensor]
Rotation = tuple[Tensor, Tensor] | None
"""Cosines and sines [N, D] of the tokens' positions."""
Attention = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Queries, keys and values [N, heads, D] of N tokens, and the scale of their products → what they read, [N, heads·D]."""


@dataclass(frozen=True)
class Layer:
    """x + out(attention(heads(x))), then x + feed(x): what GPT-2 and Llama have in common. Norms are in the parts."""

    heads: Callable[[Tensor, Rotation], tuple[Tensor, Tensor, Tensor]]
    """[N, H] → queries [N, heads, D], keys and values [N, heads of keys and values, D]."""
    out: Module
    feed: Module
    scale: float

    def __call__(self, x_NH: Tensor, rotation: Rotation, attention: Attention) -> Tensor:
        x_NH = x_NH + self.out(attention(*self.heads(x_NH, rotation), self.scale))
        return x_NH + self.feed(x_NH)


@dataclass(frozen=True)
class Direct:
    """A model as embeddings, layers, a last norm and a head; or its trunk, without."""

    embed: Callable[[Tensor, Tensor], tuple[Tensor, Rotation]]
    """Ids and positions [N] → [N, H]"""
    layers: Sequence[Layer]
    norm: Module
    head: Module | None = None

    def step(self, token_B: Tensor, position_B: Tensor, bias_B11S: Tensor, cache: Any) -> Tensor:
        """Logits [B, V] behind one more token, which also goes into the cache. The bias is 0 where a token may be
        read and −inf on padding."""
        assert self.head is not None
        x_BH, rotation = self.embed(token_B, position_B)
        for layer, states in zip(self.layers, cache.layers, strict=True):
            x_BH = layer(x_BH, rotation, partial(_after_cached, states, bias_B11S))
        return self.head(self.norm(x_BH))

    def of_groups(self, rollouts: Rollouts) -> Tensor:
        """The last hidden states from which each response token is predicted, [P, G, T, H]: prompts, read once a
        group, and responses of T > 1 go through the layers together and meet in attention alone."""
        assert rollouts.T > 1
        G, L = rollouts.G, rollouts.prompt_ids_PL.shape[1]
        at_PL, at_BS = positions(rollouts.prompt_mask_PL), positions(rollouts.attention_mask_BS()[:, :-1])
        x_NH, texts = self._hidden(
            torch.cat([rollouts.prompt_ids_PL.flatten(), rollouts.response_ids_PGT[..., :-1].flatten()]),
            torch.cat([at_PL.flatten(), at_BS[:, L:].flatten()]),
            partial(Texts.in_groups, rollouts),
        )
        ahead, behind = texts.apart(x_NH)
        last_PH = ahead.unflatten(0, (-1, L))[:, -1:]
        read_BTH = torch.cat(
            [last_PH.repeat_interleave(G, dim=0), behind.unflatten(0, (len(at_BS), -1))], dim=1
        )
        return rollouts.per_group(self.norm(read_BTH))

    def of_texts(self, rollouts: Rollouts) -> Tensor:
        """The same, every response read behind a prompt of its own."""
        ids_BS, mask_BS = rollouts.input_ids_BS()[:, :-1], rollouts.attention_mask_BS()[:, :-1]
        x_NH, _ = self._hidden(ids_BS.flatten(), positions(mask_BS).flatten(), partial(Texts.whole, mask_BS))
        read_BTH = x_NH.unflatten(0, ids_BS.shape)[:, -rollouts.T :]
        return rollouts.per_group(self.norm(read_BTH))

    def _hidden(
        self, ids_N: Tensor, positions_N: Tensor, texts_of: Callable[[torch.dtype], Texts]
    ) -> tuple[Tensor, Texts]:
        """What the last layer gives, [N, H]."""
        x_NH, rotation = self.embed(ids_N, positions_N)
        texts = texts_of(x_NH.dtype)
        for layer in self.layers:
            x_NH = layer(x_NH, rotation, texts.attend)
        return x_NH, texts


def _after_cached(
    cache: GrowingLayer, bias_B11S: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float
) -> Tensor:
    """One token a row, behind those in the cache."""
    keys, values = cache.update(key[:, :, None], value[:, :, None])
    return attend_after_cached(query, keys, values, bias_B11S, scale)
