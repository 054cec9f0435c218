"""A language model as layers that are called one by one, on the tokens of a whole batch or on one more in every row.

Tokens of prompts and of responses go through a layer together, without padding; only attention tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algos.engine.fast.attention import attend
from algos.engine.fast.masks import Texts
from algos.engine.fast.parts import Module
from algos.engine.fast.places import Places
from algos.engine.inputs import positions
from algos.engine.rollouts import Rollouts

Rotation = tuple[Tensor, Tensor] | None
"""Cosines and sines [M, D] of the tokens' positions; None where a model has no rotary embeddings."""
KeysAndValues = tuple[Tensor, Tensor]
"""Of one layer, each [rows, A, tokens, D]."""
Attention = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Queries [M, heads, D], keys and values [M, A, D] of M tokens, and the scale of their products → [M, heads·D]."""


@dataclass(frozen=True)
class Layer:
    """x + out(attention(heads(x))), then x + feed(x), as in GPT-2 and Llama. `heads` and `feed` include their norms."""

    heads: Callable[[Tensor, Rotation], tuple[Tensor, Tensor, Tensor]]
    """[M, H] → queries [M, heads, D], keys and values [M, A, D]."""
    out: Module
    feed: Module
    scale: float

    def __call__(
        self, x_MH: Tensor, rotation: Rotation, attention: Attention, asked_N: Tensor | None = None
    ) -> Tensor:
        """The layer's output, [M, H]. With `asked_N`, indices of tokens without repetition, it is that of these alone,
        [N, H]; they attend to the others all the same."""
        read_MH = attention(*self.heads(x_MH, rotation), self.scale)
        if asked_N is not None:
            x_MH, read_MH = x_MH.index_select(0, asked_N), read_MH.index_select(0, asked_N)
        x_MH = x_MH + self.out(read_MH)
        return x_MH + self.feed(x_MH)


@dataclass(frozen=True)
class Direct:
    """A model's trunk as embeddings, layers and a last norm."""

    embed: Callable[[Tensor, Tensor], tuple[Tensor, Rotation]]
    """Ids and positions [M] → [M, H]"""
    layers: Sequence[Layer]
    norm: Module
    passed_over: Sequence[nn.Module]
    """Modules of the model that are not called themselves, only their parts: hooks on them would not run."""

    def of_groups(self, rollouts: Rollouts) -> Tensor:
        """The last hidden states from which the response tokens are predicted, [N, H] (`Rollouts.places_N`), for T > 1.
        Each prompt is read once for its group; only in attention do prompts and responses meet."""
        assert rollouts.T > 1
        L, T, asked_N = rollouts.prompt_ids_PL.shape[1], rollouts.T, rollouts.places_N
        places = Places.in_groups(rollouts)
        at_PL, at_BS = positions(rollouts.prompt_mask_PL), positions(rollouts.attention_mask_BS()[:, :-1])
        # A response's first token is predicted from the end of its prompt, every other from the token before it.
        response_N, t_N = asked_N // T, asked_N % T
        is_later_N = t_N > 0
        before_N = places.prompts + response_N * (T - 1) + t_N - 1
        hidden = self._hidden(
            torch.cat([rollouts.prompt_ids_PL.flatten(), rollouts.response_ids_PGT[..., :-1].flatten()]),
            torch.cat([at_PL.flatten(), at_BS[:, L:].flatten()]),
            torch.cat([_ends(places), before_N[is_later_N]]),
            places,
            partial(Texts.in_groups, rollouts, places),
        )
        # Looked up as in an embedding: gradients at a prompt's end are then added in a fixed order, on a GPU too.
        row_N = torch.where(is_later_N, places.P - 1 + is_later_N.cumsum(0), response_N // rollouts.G)
        return F.embedding(row_N, hidden)

    def of_texts(self, rollouts: Rollouts) -> Tensor:
        """The same, each response read behind a copy of its prompt."""
        ids_BS, mask_BS = rollouts.input_ids_BS()[:, :-1], rollouts.attention_mask_BS()[:, :-1]
        T, asked_N, places = rollouts.T, rollouts.places_N, Places.in_texts(rollouts)
        return self._hidden(
            ids_BS.flatten(),
            positions(mask_BS).flatten(),
            (asked_N // T + 1) * places.L - T + asked_N % T,
            places,
            partial(Texts.whole, mask_BS, places),
        )

    def of_prompts(self, ids_PL: Tensor, mask_PL: Tensor) -> tuple[Tensor, list[KeysAndValues]]:
        """The last hidden states at the ends of prompts that are padded on the left, [P, H], and each layer's keys and
        values."""
        kept: list[KeysAndValues] = []
        places = Places.whole(mask_PL)
        hidden_PH = self._hidden(
            ids_PL.flatten(),
            positions(mask_PL).flatten(),
            _ends(places),
            places,
            partial(Texts.whole, mask_PL, places),
            partial(_attend_and_keep, kept),
        )
        return hidden_PH, kept

    def _hidden(
        self,
        ids_F: Tensor,
        positions_F: Tensor,
        asked_N: Tensor,
        places: Places,
        texts_in: Callable[[torch.dtype], Texts],
        attending: Callable[..., Tensor] = attend,
    ) -> Tensor:
        """The last hidden states at N of the places, [N, H], from ids and positions at all of them. In the last layer
        the other tokens go no further than attention."""
        token_N = places.token_F[asked_N]
        assert places.is_full or torch.equal(places.taken_M[token_N], asked_N), "asked for what is padding"
        x_MH, rotation = self.embed(places.of_tokens(ids_F), places.of_tokens(positions_F))
        attention, (*before, last) = partial(attending, texts_in(x_MH.dtype)), self.layers
        for layer in before:
            x_MH = layer(x_MH, rotation, attention)
        return self.norm(last(x_MH, rotation, attention, token_N))


@dataclass(frozen=True)
class WithHead(Direct):
    """A language model: its trunk, and its head."""

    head: Module


@dataclass(frozen=True)
class DirectModel(WithHead):
    """A language model whose parts are called as modules."""

    bare: Callable[[], WithHead]
    """Makes the same model from the functions that its modules compute now, for blocks in which no weight changes."""


def _ends(places: Places) -> Tensor:
    """The places at which prompts end, [P]: they are padded on the left."""
    return torch.arange(1, places.P + 1, device=places.taken_M.device) * places.L - 1


def _attend_and_keep(
    kept: list[KeysAndValues], texts: Texts, query: Tensor, key: Tensor, value: Tensor, scale: float
) -> Tensor:
    """`attend` to texts that are read whole, of which keys and values are kept."""
    # Copies: views would keep the queries, too.
    keys, values = (texts.places.texts(x)[0].transpose(1, 2).contiguous() for x in (key, value))
    kept.append((keys, values))
    return attend(texts, query, key, value, scale)
