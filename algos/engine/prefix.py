"""Many responses to one prompt, scored with the prompt read once: for groups of hundreds, as the frontier's are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from algos.engine.cache import GrowingLayer, growing_cache
from algos.engine.forward import MAX_TOKENS, accepts, inputs_for, of_hidden, precision
from algos.engine.head import linear_head, unwrapped
from algos.engine.memory import SHORTER
from algos.engine.policy import Policy
from algos.engine.rollouts import Rollouts, join_right
from algos.engine.scoring import score_policy


@torch.no_grad()
def score_group(policy: Policy, rollouts: Rollouts, temperature: float) -> Tensor:
    """Log-probabilities [1, G, T] of the responses to one prompt, under the policy as it is now.

    They are those of `score_policy` but for rounding. Models that keep more than keys and values of the
    prompt (windows, recurrent states) read it again for every response. Raises RunError where memory does not take even one.
    """
    head = linear_head(policy.model)
    if head is None or not _keeps_all_keys(policy.model):
        return score_policy(policy, rollouts, temperature)[0]

    def attempt(responses: int) -> Tensor:
        parts = torch.arange(rollouts.G, device=policy.device).split(responses)
        found = []
        for part_K in parts:
            some = rollouts.pick(part_K[None]).trimmed()
            with precision(policy.device, policy.dtype):
                hidden_PGTH = _hidden(policy.model, some)
                found.append(of_hidden(hidden_PGTH, head, some, temperature)[0].transpose(0, 1))
        return join_right(found, width=rollouts.T).transpose(0, 1)

    size = max(1, min(rollouts.G, MAX_TOKENS // rollouts.T))
    return policy.portions.run("scoring of groups", size, attempt, SHORTER)


def _keeps_all_keys(model: Any) -> bool:
    """Whether a prompt's keys and values are all that is needed of it."""
    cache = growing_cache(unwrapped(model).config)
    layers = cache.layers
    return accepts(model, "past_key_values") and bool(layers) and all(type(x) is GrowingLayer for x in layers)


def _hidden(model: nn.Module, rollouts: Rollouts) -> Tensor:
    """The hidden states from which each response token is predicted, [1, G, T, H]: the prompt's last, then the
    responses', read together after the prompt's keys and values."""
    inner = unwrapped(model)
    cache: Any = growing_cache(inner.config)
    mask_BS = rollouts.attention_mask_BS()
    first_1LH = _read(inner, rollouts.prompt_ids_PL, rollouts.prompt_mask_PL, cache)
    hidden = first_1LH[:, -1:].expand(rollouts.G, -1, -1)
    if rollouts.T > 1:
        cache.reorder_cache(torch.zeros(rollouts.G, dtype=torch.long, device=mask_BS.device))
        rest_BTH = _read(inner, rollouts.response_ids_PGT[0, :, :-1], mask_BS[:, :-1], cache)
        hidden = torch.cat([hidden, rest_BTH], dim=1)
    return hidden[None]


def _read(inner: Any, ids_BN: Tensor, mask_BS: Tensor, cache: Any) -> Tensor:
    """The trunk's hidden states of these tokens, [B, N, H]."""
    hidden_BNH: Tensor = inner.base_model(**inputs_for(inner, ids_BN, mask_BS, cache)).last_hidden_state
    return hidden_BNH
