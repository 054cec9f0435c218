"""Which tokens attend to which: those of prompts to their prompt, those of responses to their prompt and response."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from algos.engine.fast.places import Places
from algos.engine.rollouts import Rollouts


@dataclass(frozen=True)
class Texts:
    """Which of a batch's tokens attend to which others, as biases to add to attention's logits: 0 where a token may be
    attended to, −inf elsewhere."""

    places: Places
    prompts_P1LL: Tensor
    responses_B1RS: Tensor
    """S = L + R: the prompt, then the response. Empty where texts are read whole."""

    @classmethod
    def in_groups(cls, rollouts: Rollouts, places: Places, dtype: torch.dtype) -> Texts:
        """Prompts that are each read once, by all responses of their group."""
        mask_PL = rollouts.prompt_mask_PL
        prompt_BRL = mask_PL.repeat_interleave(places.G, dim=0)[:, None, :].expand(-1, places.R, -1)
        own_BRR = _earlier(places.R, mask_PL.device).expand(len(prompt_BRL), -1, -1)
        readable_BRS = torch.cat([prompt_BRL, own_BRR], dim=-1)
        return cls(places, _causal_bias(mask_PL, dtype), padding_bias(readable_BRS, dtype))

    @classmethod
    def whole(cls, mask_BS: Tensor, places: Places, dtype: torch.dtype) -> Texts:
        """Texts [B, S] that share nothing; the mask is True on tokens."""
        none = mask_BS.new_empty(0, 1, 0, mask_BS.shape[1], dtype=dtype)
        return cls(places, _causal_bias(mask_BS, dtype), none)


def padding_bias(readable_BRS: Tensor, dtype: torch.dtype) -> Tensor:
    """For R tokens that may attend to some of S: [B, 1, R, S], 0 where they may, −inf elsewhere."""
    shape, device = readable_BRS[:, None].shape, readable_BRS.device
    return torch.zeros(shape, dtype=dtype, device=device).masked_fill(~readable_BRS[:, None], -torch.inf)


def _causal_bias(mask_BS: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, S, S]"""
    # Padding attends to itself: with nothing to attend to, its softmax would not be finite.
    itself_SS = torch.eye(mask_BS.shape[1], dtype=torch.bool, device=mask_BS.device)
    return padding_bias((_earlier(mask_BS.shape[1], mask_BS.device) & mask_BS[:, None, :]) | itself_SS, dtype)


def _earlier(tokens: int, device: torch.device) -> Tensor:
    """True for each token and those before it, [tokens, tokens]."""
    return torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()
