"""A language model as layers that are called one by one: one token more for decoding, whole groups for training.

Tokens of prompts and of responses are multiplied together; only attention, whose few lines are written again here, has
to tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from algos.engine.cache import GrowingLayer
from algos.engine.inputs import positions
from algos.engine.rollouts import Rollouts

Module = Callable[[Tensor], Tensor]
Rotation = tuple[Tensor, Tensor] | None
"""Cosines and sines [N, D] of the tokens' positions."""
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values [N, heads, D] of N tokens → what they read, [N, heads·D]."""


@dataclass(frozen=True)
class Layer:
    """x + out(attention(heads(before(x)))), then x + mlp(between(x)): what GPT-2 and Llama have in common."""

    before: Module
    heads: Callable[[Tensor, Rotation], tuple[Tensor, Tensor, Tensor]]
    """[N, H] → queries [N, heads, D], keys and values [N, heads of keys and values, D]."""
    out: Module
    between: Module
    mlp: Module
    scale: float

    def __call__(self, x_NH: Tensor, rotation: Rotation, attention: Attention) -> Tensor:
        x_NH = x_NH + self.out(attention(*self.heads(self.before(x_NH), rotation)))
        return x_NH + self.mlp(self.between(x_NH))

    def read(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Queries [B, heads, N, D], keys and values [B, heads or a divisor of them, S, D] → [B·N, heads·D]."""
        sharing, on_cpu = query.shape[1] // keys.shape[1], query.device.type == "cpu"
        if sharing > 1 and not on_cpu:  # with a bias only torch's slowest kernel knows of shared keys there
            keys, values = (x.repeat_interleave(sharing, dim=1) for x in (keys, values))
        found = F.scaled_dot_product_attention(
            query, keys, values, bias.to(query.dtype), scale=self.scale, enable_gqa=sharing > 1 and on_cpu
        )
        return found.transpose(1, 2).flatten(2).flatten(0, 1)


@dataclass(frozen=True)
class Direct:
    """A model as embeddings, layers, a last norm and a head."""

    embed: Callable[[Tensor, Tensor], tuple[Tensor, Rotation]]
    """Ids and positions [N] → [N, H]"""
    layers: Sequence[Layer]
    norm: Module
    head: Module

    def step(self, token_B: Tensor, position_B: Tensor, bias_B11S: Tensor, cache: Any) -> Tensor:
        """Logits [B, V] behind one more token, which also goes into the cache. The bias is 0 where a token may be
        read and −inf on padding."""
        x_BH, rotation = self.embed(token_B, position_B)
        for layer, states in zip(self.layers, cache.layers, strict=True):
            x_BH = layer(x_BH, rotation, partial(_after_cached, layer, states, bias_B11S))
        return self.head(self.norm(x_BH))

    def response_hidden(self, rollouts: Rollouts) -> Tensor:
        """The last hidden states from which each response token is predicted, [P, G, T, H]: prompts, read once a
        group, and responses go through the layers together and meet in attention alone."""
        P, G, L = rollouts.P, rollouts.G, rollouts.prompt_ids_PL.shape[1]
        ids_BN = rollouts.response_ids_PGT[..., :-1].flatten(0, 1)
        at_PL, at_BS = positions(rollouts.prompt_mask_PL), positions(rollouts.attention_mask_BS()[:, :-1])
        x_NH, rotation = self.embed(
            torch.cat([rollouts.prompt_ids_PL.flatten(), ids_BN.flatten()]),
            torch.cat([at_PL.flatten(), at_BS[:, L:].flatten()]),
        )
        biases = _biases(rollouts, x_NH.dtype)
        for layer in self.layers:
            x_NH = layer(x_NH, rotation, partial(_in_groups, layer, rollouts, biases))
        x_PLH, x_BNH = (
            part.unflatten(0, (rows, -1)) for part, rows in zip(_apart(x_NH, P * L), (P, P * G), strict=True)
        )
        read_BTH = torch.cat([x_PLH[:, -1:].repeat_interleave(G, dim=0), x_BNH], dim=1)
        return rollouts.per_group(self.norm(read_BTH))


def padding_bias(mask_BS: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, 1, S] to add to attention's logits: 0 on tokens, −inf on padding."""
    return _bias(mask_BS[:, None, None], dtype)


def _bias(readable: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(readable.shape, dtype=dtype, device=readable.device).masked_fill(~readable, -torch.inf)


def _biases(rollouts: Rollouts, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What prompts may read of themselves [P, 1, L, L], and responses of their prompts and themselves
    [B, 1, N, L + N]."""
    G, L, N = rollouts.G, rollouts.prompt_ids_PL.shape[1], rollouts.T - 1
    mask_PL, device = rollouts.prompt_mask_PL, rollouts.mask_PGT.device
    before_LL = torch.ones(L, L, dtype=torch.bool, device=device).tril()
    # Padding reads itself: with nothing to read its softmax would not be finite.
    itself_LL = torch.eye(L, dtype=torch.bool, device=device)
    prompts = (before_LL & mask_PL[:, None, :]) | itself_LL
    before_NN = torch.ones(N, N, dtype=torch.bool, device=device).tril()
    asked = mask_PL.repeat_interleave(G, dim=0)[:, None, :].expand(-1, N, -1)
    responses = torch.cat([asked, before_NN.expand(len(asked), -1, -1)], dim=-1)
    return _bias(prompts[:, None], dtype), _bias(responses[:, None], dtype)


def _after_cached(
    layer: Layer, cache: GrowingLayer, bias_B11S: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """One token a row, behind those in the cache."""
    keys, values = cache.update(key[:, :, None], value[:, :, None])
    return layer.read(query[:, :, None], keys, values, bias_B11S)


def _in_groups(layer: Layer, rollouts: Rollouts, biases: tuple[Tensor, Tensor], *of_tokens: Tensor) -> Tensor:
    """The tokens of all prompts, then those of all responses. Attention keeps copies of what it reads, so that nothing
    keeps the wider tensors that they are parts of."""
    P, G, L = rollouts.P, rollouts.G, rollouts.prompt_ids_PL.shape[1]
    asked, answered = zip(*(_apart(x, P * L) for x in of_tokens), strict=True)
    query, *before = (x.unflatten(0, (P, L)).transpose(1, 2).contiguous() for x in asked)
    own, *after = (x.unflatten(0, (P * G, -1)).transpose(1, 2) for x in answered)
    both = [torch.cat([x.repeat_interleave(G, dim=0), y], dim=2) for x, y in zip(before, after, strict=True)]
    (keys, values), (all_keys, all_values) = before, both
    return torch.cat(
        [
            layer.read(query, keys, values, biases[0]),
            layer.read(own.contiguous(), all_keys, all_values, biases[1]),
        ]
    )


def _apart(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The first rows and the others; unlike slices, they send back one gradient, not two halves full of zeros."""
    ahead, behind = x.split([first, len(x) - first])
    return ahead, behind
