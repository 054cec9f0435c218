"""One forward pass over Rollouts: log-probabilities, entropies and values of the response tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from algos.engine.algorithm import Outputs
from algos.engine.fast.direct import direct
from algos.engine.fast.head import linear_head, selected_logps
from algos.engine.fast.hidden import response_hidden
from algos.engine.fast.parts import wide_function_of
from algos.engine.fast.products import rounds_sums
from algos.engine.fast.tied import shared_gradient
from algos.engine.inputs import accepts, aligned, inputs_for, precision, unwrapped
from algos.engine.memory import activations_at_once, tokens_at_once
from algos.engine.rollouts import Rollouts

MAX_LOGITS = 2**26  # fp32 logits of one no-gradient forward stay under 256 MiB
ACTIVATIONS = 24  # numbers that a layer keeps for the backward pass, a token and unit of its width


def upcast(logits: Tensor) -> Tensor:
    """At least fp32: half-precision log-softmax loses the digits that ratios are made of."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def response_logits(
    model: nn.Module, rollouts: Rollouts, temperature: float, hidden: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Logits/temperature that predict each response token, [P, G, T, V], and what the head read to predict
    those that there are, [N, H], where asked for. Only response positions reach the head."""
    T = rollouts.T
    # Nobody asks what follows the last token.
    read = aligned(rollouts.input_ids_BS()[:, :-1], rollouts.attention_mask_BS()[:, :-1], model)
    inputs = inputs_for(model, *read)
    if accepts(model, "logits_to_keep"):
        inputs["logits_to_keep"] = T
    reading: AbstractContextManager[list[Tensor]] = _read_by_head(model) if hidden else nullcontext([])
    with reading as given, _unrounded(model, rollouts.mask_PGT.device):
        logits_BTV = model(**inputs).logits[:, -T:]
    logits_PGTV = rollouts.per_group(upcast(logits_BTV) / temperature)
    return logits_PGTV, given[0][:, -T:].flatten(0, 1)[rollouts.places_N] if hidden else None


@contextmanager
def _unrounded(model: Any, device: torch.device) -> Iterator[None]:
    """The block, in which a head that training reads in chunks has its logits in fp32 on a GPU, as there."""
    head: Any = None if torch.is_grad_enabled() or not rounds_sums(device.type) else linear_head(model)
    function = head if head is None else wide_function_of(head)
    if function is head:  # one that is not known, or is to be called
        yield
        return
    head.forward = function
    try:
        yield
    finally:
        del head.forward


@contextmanager
def _read_by_head(model: Any) -> Iterator[list[Tensor]]:
    """The trunk's last hidden state, as the language model's head receives it inside the block: asked for
    its hidden states a model would keep those of all layers, and some have more than one stream of them."""
    read: list[Tensor] = []
    head = unwrapped(model).get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    try:
        yield read
    finally:
        handle.remove()


def token_logps(logits_PGTV: Tensor, ids_PGT: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the given tokens and entropies (no gradient), both [P, G, T] in nats."""
    logps_PGTV = logits_PGTV.log_softmax(-1)
    chosen_PGT = logps_PGTV.gather(-1, ids_PGT[..., None]).squeeze(-1)
    with torch.no_grad():
        entropy_PGT = torch.special.entr(logps_PGTV.exp()).sum(-1)
    return chosen_PGT, entropy_PGT


def forward(
    model: nn.Module,
    rollouts: Rollouts,
    temperature: float,
    dtype: torch.dtype,
    critic: nn.Module | None = None,
) -> Outputs:
    """What `Algorithm.loss` sees: the policy's log-probabilities and, with a critic, values.

    Log-probabilities and entropies are 0 where there is no token.
    """
    head = linear_head(model)
    with precision(rollouts.mask_PGT.device, dtype):
        if head is None:
            logits_PGTV, hidden_NH = response_logits(
                model, rollouts, temperature, hidden=bool(critic and critic.shared)
            )
            logps_PGT, entropy_PGT = (
                torch.where(rollouts.mask_PGT, x_PGT, 0.0)
                for x_PGT in token_logps(logits_PGTV, rollouts.response_ids_PGT)
            )
        else:
            inner = unwrapped(model)
            layers = direct(inner)
            with shared_gradient(inner.get_input_embeddings(), head) as passed:
                hidden_NH = response_hidden(inner.base_model, rollouts, layers)
            ids_N = rollouts.response_ids_PGT.flatten()[rollouts.places_N]
            found = selected_logps(hidden_NH, head, ids_N, temperature, passed[-1])
            logps_PGT, entropy_PGT = (rollouts.placed(x_N) for x_N in found)
        values_PGT = None if critic is None else critic(rollouts, hidden_NH)
    return Outputs(logps_PGT, entropy_PGT, values_PGT)


def groups_per_forward(
    model: Any, rollouts: Rollouts, *, backward: bool = False, logits: int | None = None
) -> int:
    """How many prompts (groups) go through the model at once: bounded tokens, activations and logits.

    `logits`: how many [G, T, V] tensors of logits the caller holds at once; None: as many as the model's head makes.
    """
    tokens = tokens_at_once(rollouts.mask_PGT.device, backward=backward)
    return max(1, int(1 / _share(model, rollouts, backward, logits, tokens)))


def responses_per_forward(model: Any, rollouts: Rollouts) -> int:
    """How many responses of one group go through the model at once, without gradient."""
    # Not as few as a cache would hold: every part reads the prompt again.
    tokens = tokens_at_once(rollouts.mask_PGT.device, backward=True)
    return max(1, min(rollouts.G, int(rollouts.G / _share(model, rollouts, False, None, tokens))))


def _share(model: Any, rollouts: Rollouts, backward: bool, logits: int | None, most_tokens: int) -> float:
    """What one group takes of what a forward pass may."""
    inner = unwrapped(model)
    config = inner.config.get_text_config()
    tokens = rollouts.G * (rollouts.T + rollouts.prompt_ids_PL.shape[1])
    share = tokens / most_tokens
    if logits is None:
        logits = 0 if linear_head(model) is not None else 2 if backward else 1
    share = max(share, logits * rollouts.G * rollouts.T * config.vocab_size / MAX_LOGITS)
    if backward:
        width = inner.get_output_embeddings().weight.shape[-1]
        layers = getattr(config, "num_hidden_layers", 1)
        most = activations_at_once(rollouts.mask_PGT.device)
        share = max(share, tokens * layers * width * ACTIVATIONS / most)
    return share
