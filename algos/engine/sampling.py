"""Prompts → Rollouts: our own decode loop, each draw the inverse CDF at a number that belongs to its place.

A sample depends on (seed, prompt, g, t) and the model alone, not on its batch, on the rows beside it or on
the number of workers, so all arms are evaluated with the same random numbers and resuming is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from algos.engine.decoding import filtered, inverse_cdf, stepper
from algos.engine.errors import RunError, UserError
from algos.engine.fast.direct import direct
from algos.engine.fast.products import packed
from algos.engine.forward import upcast
from algos.engine.inputs import precision
from algos.engine.memory import SHORTER, out_of_memory_as
from algos.engine.models.policy import Policy
from algos.engine.rollouts import Rollouts, pad_left
from algos.engine.seeding import uniforms
from algos.engine.settings import Sampling, require_filters

MAX_ROWS = 256  # responses decoded at once


@torch.no_grad()
def sample(
    policy: Policy,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    seed: int,
    *,
    group_size: int | None = None,
    greedy: bool = False,
    top_p: float = 1.0,
    top_k: int = 0,
) -> Rollouts:
    """`group_size` responses to each prompt (token ids), without scores; `sampler_logps_PGT` is filled.

    The log-probabilities are those of the distribution drawn from, at `sampling.temperature`. `top_p` (nucleus; 1: off)
    and `top_k` (the likeliest tokens; 0: off) filter it, as is done for what is read and not for what is learned from.
    What `encode_prompts` (batches/prompts.py) returns becomes prompts by `[p.ids for p in encode_prompts(…)[0]]`.
    Raises UserError for prompts that are no lists of token ids and for filters out of range, and RunError where memory does
    not take even one response.
    """
    require_filters(top_p, top_k)
    keep = partial(filtered, top_p=top_p, top_k=top_k)
    _require_ids(prompts)
    G = 1 if greedy else group_size or sampling.group_size
    U_PGT = torch.from_numpy(uniforms(seed, prompts, G, sampling.max_new_tokens))

    def attempt(rows: int) -> _Responses:
        drawn = _Responses.blank(policy, tuple(U_PGT.shape))
        for part in _portions(len(prompts), G, rows):
            drawn.put(part, _decode(policy, prompts[part[0]], U_PGT[part], sampling, greedy, keep))
        return drawn

    rows = min(MAX_ROWS, len(prompts) * G)
    # Tried out before weights are laid out in half precision, in which nothing would be alike.
    with out_of_memory_as(RunError, f"out of memory in sampling. {SHORTER}"):
        direct(policy.model)
    with precision(policy.device, policy.dtype), packed(policy.model, rows):
        drawn = policy.portions.run("sampling", rows, attempt, SHORTER).trimmed()
    prompt_ids_PL, prompt_mask_PL = pad_left(list(prompts), policy.pad_id)
    fixed_PGT = None
    if sampling.greedy_prefix and not greedy:
        place_T = torch.arange(drawn.mask.shape[-1], device=policy.device)
        fixed_PGT = (place_T < sampling.greedy_prefix) & drawn.mask
    return Rollouts(
        prompt_ids_PL=prompt_ids_PL.to(policy.device),
        prompt_mask_PL=prompt_mask_PL.to(policy.device),
        response_ids_PGT=drawn.ids,
        mask_PGT=drawn.mask,
        ended_PG=drawn.ended,
        fixed_PGT=fixed_PGT,
        sampler_logps_PGT=drawn.logps,
        max_tokens=sampling.max_new_tokens,
    )


def _require_ids(prompts: Sequence[Any]) -> None:
    """Raises UserError for prompts of which one is no list of token ids, such as a text or an EncodedPrompt."""
    for prompt in prompts:
        listed = isinstance(prompt, (list, tuple))
        if not listed or not all(isinstance(token, Integral) for token in prompt[:1]):
            inner = prompt[0] if listed else prompt
            got = f"the text {inner[:40]!r}" if isinstance(inner, str) else type(inner).__name__
            raise UserError(
                f"sample takes prompts as lists of token ids; got {got}. Encode texts first: [p.ids for p in "
                "encode_prompts(policy, texts, max_new_tokens)[0]], by encode_prompts of algos.engine.batches.prompts."
            )


@dataclass(frozen=True)
class _Responses:
    """What is drawn, [..., T], and whether each response ended, [...]."""

    ids: Tensor
    mask: Tensor
    logps: Tensor
    ended: Tensor

    @classmethod
    def blank(cls, policy: Policy, shape: tuple[int, ...]) -> _Responses:
        """Padding alone."""
        device = policy.device
        return cls(
            torch.full(shape, policy.pad_id, device=device),
            torch.zeros(shape, dtype=torch.bool, device=device),
            torch.zeros(shape, device=device),
            torch.zeros(shape[:-1], dtype=torch.bool, device=device),
        )

    @classmethod
    def of_steps(
        cls, policy: Policy, steps: Sequence[tuple[Tensor, Tensor, Tensor]], eos: Tensor, B: int, T: int
    ) -> _Responses:
        """[B, T] from what each step drew: for which responses, which tokens and their log-probabilities."""
        drawn = cls.blank(policy, (B, T))
        rows_N, token_N, logps_N = (torch.cat(parts) for parts in zip(*steps, strict=True))
        counts = torch.tensor([len(rows_B) for rows_B, _, _ in steps], device=policy.device)
        place = (rows_N, torch.arange(len(steps), device=policy.device).repeat_interleave(counts))
        drawn.ids[place], drawn.mask[place], drawn.logps[place] = token_N, True, logps_N
        drawn.ended[rows_N[torch.isin(token_N, eos)]] = True
        return drawn

    def put(self, part: tuple[slice, slice], other: _Responses) -> None:
        """Writes some prompts' responses in their place."""
        for field in fields(self):
            getattr(self, field.name)[part] = getattr(other, field.name)

    def grouped(self, P: int, G: int) -> _Responses:
        """[B, ...] → [P, G, ...]."""
        return _Responses(*(getattr(self, field.name).unflatten(0, (P, G)) for field in fields(self)))

    def trimmed(self) -> _Responses:
        """As wide as the longest response."""
        T = int(self.mask.sum(-1).max())
        return _Responses(self.ids[..., :T], self.mask[..., :T], self.logps[..., :T], self.ended)


def _portions(P: int, G: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Which prompts, and which of their responses, are decoded together: at most `rows` responses."""
    p, g = max(1, rows // G), min(rows, G)
    for i in range(0, P, p):
        for j in range(0, G, g):
            yield slice(i, i + p), slice(j, j + g)


def _decode(
    policy: Policy,
    prompts: Sequence[list[int]],
    U_PGT: Tensor,
    sampling: Sampling,
    greedy: bool,
    keep: Callable[[Tensor], Tensor],
) -> _Responses:
    """The responses of one batch, drawn from the logits that `keep` leaves. Each prompt is encoded once for its group; rows
    that have ended leave it."""
    device, (P, G, T) = policy.device, U_PGT.shape
    U_BT, eos = U_PGT.flatten(0, 1).to(device), torch.tensor(policy.eos_ids, device=device)
    batch = stepper(policy, prompts, G, T)
    rows_B = torch.arange(P * G, device=device)  # which response each row of the running batch is
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    logits_BV = batch.prefill()
    for t in range(T):
        logits_BV = upcast(logits_BV)
        if sampling.temperature != 1:
            logits_BV = logits_BV / sampling.temperature
        logps_BV = keep(logits_BV).log_softmax(-1)
        sampled = not greedy and t >= sampling.greedy_prefix
        token_B = inverse_cdf(logps_BV, U_BT[:, t]) if sampled else logps_BV.argmax(-1)
        steps.append((rows_B, token_B, logps_BV.gather(-1, token_B[:, None]).squeeze(-1).float()))
        going = (~torch.isin(token_B, eos)).nonzero().squeeze(-1)
        if t + 1 == T or len(going) == 0:
            break
        if len(going) < len(rows_B):
            rows_B, token_B, U_BT = rows_B[going], token_B[going], U_BT[going]
            batch.keep(going)
        logits_BV = batch.step(token_B)
    return _Responses.of_steps(policy, steps, eos, P * G, T).grouped(P, G)
