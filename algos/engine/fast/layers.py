"""A language model as layers that are called one by one, on the tokens of a whole batch or on one more in every row.

Tokens of prompts and of responses are multiplied together, and padding is not; only attention has to tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algos.engine.fast.attention import Texts
from algos.engine.fast.parts import Module
from algos.engine.fast.places import Places
from algos.engine.inputs import positions
from algos.engine.rollouts import Rollouts

Rotation = tuple[Tensor, Tensor] | None
"""Cosines and sines [N, D] of the tokens' positions."""
KeysAndValues = tuple[Tensor, Tensor]
"""Of a layer, [rows, heads of keys and values, tokens, D] both."""
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

    def __call__(
        self, x_NH: Tensor, rotation: Rotation, attention: Attention, asked_K: Tensor | None = None
    ) -> Tensor:
        """What it makes of the tokens that are asked for, each once, by default all; they read the others all the same."""
        read_NH = attention(*self.heads(x_NH, rotation), self.scale)
        if asked_K is not None:
            x_NH, read_NH = x_NH.index_select(0, asked_K), read_NH.index_select(0, asked_K)
        x_NH = x_NH + self.out(read_NH)
        return x_NH + self.feed(x_NH)


@dataclass(frozen=True)
class Direct:
    """A model's trunk as embeddings, layers and a last norm."""

    embed: Callable[[Tensor, Tensor], tuple[Tensor, Rotation]]
    """Ids and positions [N] → [N, H]"""
    layers: Sequence[Layer]
    norm: Module
    passed_over: Sequence[nn.Module]
    """What of the model is not called itself, but its parts: whoever waits for its calls would wait in vain."""

    def of_groups(self, rollouts: Rollouts) -> Tensor:
        """The last hidden states from which response tokens are predicted, [K, H] (`Rollouts.places_N`): prompts, read
        once a group, and responses of T > 1 go through the layers together and meet in attention alone."""
        assert rollouts.T > 1
        L, T, asked_K = rollouts.prompt_ids_PL.shape[1], rollouts.T, rollouts.places_N
        places = Places.in_groups(rollouts)
        at_PL, at_BS = positions(rollouts.prompt_mask_PL), positions(rollouts.attention_mask_BS()[:, :-1])
        # The first tokens are predicted behind their prompt, each other behind the one before it.
        response_K, t_K = asked_K // T, asked_K % T
        is_later_K = t_K > 0
        behind_token_K = places.prompts + response_K * (T - 1) + t_K - 1
        hidden = self._hidden(
            torch.cat([rollouts.prompt_ids_PL.flatten(), rollouts.response_ids_PGT[..., :-1].flatten()]),
            torch.cat([at_PL.flatten(), at_BS[:, L:].flatten()]),
            torch.cat([_ends(places), behind_token_K[is_later_K]]),
            places,
            partial(Texts.in_groups, rollouts, places, len(self.layers)),
        )
        # Looked up as words are: gradients of a group's prompt are added in a fixed order, on a GPU too.
        row_K = torch.where(is_later_K, places.P - 1 + is_later_K.cumsum(0), response_K // rollouts.G)
        return F.embedding(row_K, hidden)

    def of_texts(self, rollouts: Rollouts) -> Tensor:
        """The same, every response read behind a prompt of its own."""
        ids_BS, mask_BS = rollouts.input_ids_BS()[:, :-1], rollouts.attention_mask_BS()[:, :-1]
        T, asked_K, places = rollouts.T, rollouts.places_N, Places.in_texts(rollouts)
        return self._hidden(
            ids_BS.flatten(),
            positions(mask_BS).flatten(),
            (asked_K // T + 1) * places.L - T + asked_K % T,
            places,
            partial(Texts.whole, mask_BS, places, len(self.layers)),
        )

    def of_prompts(self, ids_PL: Tensor, mask_PL: Tensor) -> tuple[Tensor, list[KeysAndValues]]:
        """The hidden states behind prompts that are padded on the left, [P, H], and what each layer's attention is to
        read of them later."""
        read: list[KeysAndValues] = []
        places = Places.whole(mask_PL)
        hidden_PH = self._hidden(
            ids_PL.flatten(),
            positions(mask_PL).flatten(),
            _ends(places),
            places,
            partial(_Reading, mask_PL, places, read),
        )
        return hidden_PH, read

    def _hidden(
        self,
        ids_N: Tensor,
        positions_N: Tensor,
        asked_K: Tensor,
        places: Places,
        reading: Callable[[torch.dtype], _Attends],
    ) -> Tensor:
        """The last hidden states at some of the places, [K, H], from ids and positions at all of them. What only attention
        reads of the last layer goes no further in it."""
        token_K = places.token_N[asked_K]
        assert places.is_full or torch.equal(places.taken_M[token_K], asked_K), "asked for what is padding"
        x_MH, rotation = self.embed(places.of_tokens(ids_N), places.of_tokens(positions_N))
        attend, (*before, last) = reading(x_MH.dtype).attend, self.layers
        for layer in before:
            x_MH = layer(x_MH, rotation, attend)
        return self.norm(last(x_MH, rotation, attend, token_K))


@dataclass(frozen=True)
class WithHead(Direct):
    """A language model's, and its head."""

    head: Module


@dataclass(frozen=True)
class DirectModel(WithHead):
    """Made of modules."""

    bare: Callable[[], WithHead]
    """Makes the same of the functions that the modules then compute, for blocks in which no weight changes."""


def _ends(places: Places) -> Tensor:
    """Where prompts end, which are padded on the left, [P]."""
    return torch.arange(1, places.P + 1, device=places.taken_M.device) * places.L - 1


class _Attends(Protocol):
    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor: ...


class _Reading:
    """Whole texts, of which what attention reads is kept."""

    def __init__(
        self, mask_BS: Tensor, places: Places, read: list[KeysAndValues], dtype: torch.dtype
    ) -> None:
        self.texts, self.read = Texts.whole(mask_BS, places, 1, dtype), read

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        # Copies: views would keep the queries, too.
        keys, values = (self.texts.places.texts(x)[0].transpose(1, 2).contiguous() for x in (key, value))
        self.read.append((keys, values))
        return self.texts.attend(query, key, value, scale)
