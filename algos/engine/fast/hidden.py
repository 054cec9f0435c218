"""The trunk's hidden states from which response tokens are predicted; a prompt is read once for all its responses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from algos.engine.fast.layers import Direct
from algos.engine.inputs import accepts, aligned, inputs_for
from algos.engine.recompute import is_recomputed
from algos.engine.rollouts import Rollouts

MIN_SAVED = 0.1
"""Share of the tokens that must be saved: below it a second call of the trunk costs more than it saves."""
MIN_SAVED_ON_GPU = 2**32
"""Tokens that must be saved on a GPU, times the trunk's width squared. An estimate: to read prompts apart took an H100
0.8 ms a layer more, for launching kernels (docs/benchmarks.md). In that time it multiplies so many tokens with a
layer's weights, twelve times the width squared, forward and backward."""


def response_hidden(trunk: Any, rollouts: Rollouts, layers: Direct | None = None) -> Tensor:
    """The last hidden states from which the response tokens are predicted, [N, H] (`Rollouts.places_N`).

    A group's prompt is read once for all its responses, with its gradient, where that saves enough (`reads_once`) and
    keys and values are all that the trunk keeps of it. A trunk that keeps more (sliding windows, recurrent states)
    reads it again for every response, and so does gradient checkpointing, under which layers would write to a cache
    twice.

    Known `layers` are called one by one: for prompts that are read once, and on a CPU for all other texts too, as
    padding is left out there. The rest, and everything under gradient checkpointing, goes through the trunk itself.
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
    # Nothing is predicted from the last token.
    ids_BS, mask_BS = aligned(rollouts.input_ids_BS()[:, :-1], rollouts.attention_mask_BS()[:, :-1], trunk)
    hidden_BSH: Tensor = trunk(**inputs_for(trunk, ids_BS, mask_BS)).last_hidden_state
    return _of_tokens(hidden_BSH[:, -T:], rollouts)


def reads_once(rollouts: Rollouts, trunk: Any) -> bool:
    """Whether a prompt read once for its responses takes less time than one read with each. It is decided by the tokens
    saved: on a GPU launching the additional kernels takes as long however few these are."""
    G, L = rollouts.G, rollouts.prompt_ids_PL.shape[1]
    saved = (G - 1) * L
    if saved < MIN_SAVED * G * (L + rollouts.T):
        return False
    on_cpu, width = rollouts.mask_PGT.device.type == "cpu", trunk.get_input_embeddings().weight.shape[-1]
    return on_cpu or rollouts.P * saved * width**2 >= MIN_SAVED_ON_GPU


def _of_groups(trunk: Any, rollouts: Rollouts, cache: DynamicCache) -> Tensor:
    """`response_hidden` by the trunk, [N, H]: prompts fill the cache, and responses are read behind it."""
    G = rollouts.G
    prompts_PLH = _read(trunk, rollouts.prompt_ids_PL, rollouts.prompt_mask_PL, cache)
    cache.batch_repeat_interleave(G)
    ids_BR, mask_BS = rollouts.response_ids_PGT[..., :-1].flatten(0, 1), rollouts.attention_mask_BS()[:, :-1]
    rest_BRH = _read(trunk, ids_BR, mask_BS, cache)
    first_B1H = prompts_PLH[:, -1:].repeat_interleave(G, dim=0)
    return _of_tokens(torch.cat([first_B1H, rest_BRH], dim=1), rollouts)


def _of_tokens(hidden_BTH: Tensor, rollouts: Rollouts) -> Tensor:
    """[B, T, H] → [N, H], without padding."""
    hidden_BH = hidden_BTH.flatten(0, 1)
    places_N = rollouts.places_N
    return hidden_BH if len(places_N) == len(hidden_BH) else hidden_BH[places_N]


def _read(trunk: Any, ids_BR: Tensor, mask_BS: Tensor, cache: DynamicCache) -> Tensor:
    """The trunk's last hidden states of the tokens, [B, R, H]; they are read behind the cache and added to it."""
    hidden_BRH: Tensor = trunk(**inputs_for(trunk, ids_BR, mask_BS, cache)).last_hidden_state
    return hidden_BRH


def _keys_alone(trunk: Any) -> DynamicCache | None:
    """An empty cache; None where this trunk keeps more of a text than keys and values, or takes no cache."""
    cache = DynamicCache(config=trunk.config)
    plain = bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
    return cache if plain and accepts(trunk, "past_key_values") else None
