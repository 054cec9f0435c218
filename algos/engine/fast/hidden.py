"""The trunk's hidden states from which response tokens are predicted, a prompt read once for all its responses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from algos.engine.checkpointing import is_recomputed
from algos.engine.fast.layers import Direct
from algos.engine.inputs import accepts, aligned, inputs_for
from algos.engine.rollouts import Rollouts

MIN_SAVED = 0.1
"""Share of the tokens below which a second call of the trunk costs more than it saves."""
MIN_SAVED_ON_GPU = 2**32
"""Likewise on a GPU, of the tokens saved times the trunk's width squared. An estimate: reading prompts apart took a layer
0.8 ms more, to start its kernels, on an H100 (docs/benchmarks.md), in which that multiplies twelve times as many weights
a token forward and backward."""


def response_hidden(trunk: Any, rollouts: Rollouts, layers: Direct | None = None) -> Tensor:
    """The last hidden states from which the response tokens are predicted, [N, H] (`Rollouts.places_N`).

    A group's prompt is read once, with its gradient, where keys and values are all that is needed of it: layers that
    keep more (windows, recurrent states) read it again for every response. So does gradient checkpointing, which
    keeps nothing, and always goes through the trunk. Else groups go through the `layers`, where they are known, and on
    a CPU texts that share no prompt do so, too: there padding is left out.
    """
    T = rollouts.T
    if not is_recomputed(trunk):
        if T > 1 and reads_once(rollouts, trunk):
            if layers is not None:
                return layers.of_groups(rollouts)
            cache = _keys_alone(trunk)
            if cache is not None:
                return _of_groups(trunk, rollouts, cache)
        elif layers is not None and rollouts.mask_PGT.device.type == "cpu":
            return layers.of_texts(rollouts)
    # Nobody asks what follows the last token.
    ids_BS, mask_BS = aligned(rollouts.input_ids_BS()[:, :-1], rollouts.attention_mask_BS()[:, :-1], trunk)
    hidden_BSH: Tensor = trunk(**inputs_for(trunk, ids_BS, mask_BS)).last_hidden_state
    return _of_tokens(hidden_BSH[:, -T:], rollouts)


def reads_once(rollouts: Rollouts, trunk: Any) -> bool:
    """Whether to read a prompt once for its responses takes less time than to read it with each, by what it saves: on a
    GPU starting the kernels for it takes as long however little that is."""
    G, L = rollouts.G, rollouts.prompt_ids_PL.shape[1]
    saved = (G - 1) * L
    if saved < MIN_SAVED * G * (L + rollouts.T):
        return False
    on_cpu, width = rollouts.mask_PGT.device.type == "cpu", trunk.get_input_embeddings().weight.shape[-1]
    return on_cpu or rollouts.P * saved * width**2 >= MIN_SAVED_ON_GPU


def _of_groups(trunk: Any, rollouts: Rollouts, cache: DynamicCache) -> Tensor:
    """The prompts' last hidden states, then those of the responses, read after the prompts' keys and values."""
    G = rollouts.G
    prompts_PLH = _read(trunk, rollouts.prompt_ids_PL, rollouts.prompt_mask_PL, cache)
    cache.batch_repeat_interleave(G)
    ids_BN, mask_BS = rollouts.response_ids_PGT[..., :-1].flatten(0, 1), rollouts.attention_mask_BS()[:, :-1]
    rest_BNH = _read(trunk, ids_BN, mask_BS, cache)
    first_B1H = prompts_PLH[:, -1:].repeat_interleave(G, dim=0)
    return _of_tokens(torch.cat([first_B1H, rest_BNH], dim=1), rollouts)


def _of_tokens(hidden_BTH: Tensor, rollouts: Rollouts) -> Tensor:
    """What is not padding, [N, H]."""
    hidden_BH = hidden_BTH.flatten(0, 1)
    places_N = rollouts.places_N
    return hidden_BH if len(places_N) == len(hidden_BH) else hidden_BH[places_N]


def _read(trunk: Any, ids_BN: Tensor, mask_BS: Tensor, cache: DynamicCache) -> Tensor:
    """The trunk's hidden states of these tokens, [B, N, H]."""
    hidden_BNH: Tensor = trunk(**inputs_for(trunk, ids_BN, mask_BS, cache)).last_hidden_state
    return hidden_BNH


def _keys_alone(trunk: Any) -> DynamicCache | None:
    """An empty cache, where keys and values are all that this trunk keeps of a text."""
    cache = DynamicCache(config=trunk.config)
    plain = bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
    return cache if plain and accepts(trunk, "past_key_values") else None
