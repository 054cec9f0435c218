"""A language model as layers that are called one by one, on the tokens of a whole batch or on one more in every row.

Tokens of prompts and of responses are multiplied together; only attention has to tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from algos.engine.attention import Texts
from algos.engine.inputs import positions
from algos.engine.parts import Module
from algos.engine.rollouts import Rollouts

Rotation = tuple[Tensor, Tensor] | None
"""Cosines and sines [N, D] of the tokens' positions."""
KeysAndValues = tuple[Tensor, Tensor]
"""Of a layer, [rows, heads of keys and values, tokens, D] both."""
Attention = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Queries, keys and values [N, heads, D] of N tokens, and the scale of their products → what they read, [N, heads·D]."""


class _Attends(Protocol):
    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor: ...


T = TypeVar("T", bound=_Attends)


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
    """A model's trunk as embeddings, layers and a last norm."""

    embed: Callable[[Tensor, Tensor], tuple[Tensor, Rotation]]
    """Ids and positions [N] → [N, H]"""
    layers: Sequence[Layer]
    norm: Module

    def of_groups(self, rollouts: Rollouts) -> Tensor:
        """The last hidden states from which each response token is predicted, [P, G, T, H]: prompts, read once a
        group, and responses of T > 1 go through the layers together and meet in attention alone."""
        assert rollouts.T > 1
        G, L = rollouts.G, rollouts.prompt_ids_PL.shape[1]
        at_PL, at_BS = positions(rollouts.prompt_mask_PL), positions(rollouts.attention_mask_BS()[:, :-1])
        x_NH, texts = self._hidden(
            torch.cat([rollouts.prompt_ids_PL.flatten(), rollouts.response_ids_PGT[..., :-1].flatten()]),
            torch.cat([at_PL.flatten(), at_BS[:, L:].flatten()]),
            partial(Texts.in_groups, rollouts, len(self.layers)),
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
        x_NH, _ = self._hidden(
            ids_BS.flatten(), positions(mask_BS).flatten(), partial(Texts.whole, mask_BS, len(self.layers))
        )
        read_BTH = x_NH.unflatten(0, ids_BS.shape)[:, -rollouts.T :]
        return rollouts.per_group(self.norm(read_BTH))

    def of_prompts(self, ids_PL: Tensor, mask_PL: Tensor) -> tuple[Tensor, list[KeysAndValues]]:
        """The hidden states behind prompts that are padded on the left, [P, H], and what each layer's attention is to
        read of them later."""
        read: list[KeysAndValues] = []
        x_NH, _ = self._hidden(
            ids_PL.flatten(), positions(mask_PL).flatten(), partial(_Reading, mask_PL, read)
        )
        return self.norm(x_NH.unflatten(0, ids_PL.shape)[:, -1]), read

    def _hidden(
        self, ids_N: Tensor, positions_N: Tensor, texts_of: Callable[[torch.dtype], T]
    ) -> tuple[Tensor, T]:
        """What the last layer gives, [N, H]."""
        x_NH, rotation = self.embed(ids_N, positions_N)
        texts = texts_of(x_NH.dtype)
        for layer in self.layers:
            x_NH = layer(x_NH, rotation, texts.attend)
        return x_NH, texts


@dataclass(frozen=True)
class WithHead(Direct):
    """A language model's, and its head."""

    head: Module


@dataclass(frozen=True)
class DirectModel(WithHead):
    """Made of modules."""

    bare: Callable[[], WithHead]
    """Makes the same of the functions that the modules then compute, for blocks in which no weight changes."""


class _Reading:
    """Whole texts, of which what attention reads is kept."""

    def __init__(self, mask_BS: Tensor, read: list[KeysAndValues], dtype: torch.dtype) -> None:
        self.texts, self.read, self.shape = Texts.whole(mask_BS, 1, dtype), read, mask_BS.shape

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        # Copies: views would keep the queries, too.
        keys, values = (x.unflatten(0, self.shape).transpose(1, 2).contiguous() for x in (key, value))
        self.read.append((keys, values))
        return self.texts.attend(query, key, value, scale)
