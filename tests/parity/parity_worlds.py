"""Tiny models, fixed batches and one update of ours, for the parity tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tiny import MODELS, rollouts_of, word_tokenizer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from algos import Algorithm, Policy
from algos.engine.budget import Meter
from algos.engine.critic import Critic
from algos.engine.loop import Loop
from algos.engine.models.frozen import Frozen
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import with_policy, with_reference
from algos.engine.state import TrainState

DTYPES = [torch.float64, torch.float32]
WORDS = "a b c d e"
PAD = 1
PROMPTS = ["a b", "c", "b a d e", "e c a"]
RESPONSES = [
    ["b a <eos>", "c c d e b"],
    ["<eos>", "a <eos>"],
    ["e d c b a", "d <eos>"],
    ["a a b <eos>", "b e <eos>"],
]
"""Of unequal lengths; some end, some are cut at five tokens."""
SCORES = [[0.5, -1.25], [2.0, 0.75], [-0.5, 0.0], [1.5, 1.0]]


def tokenizer() -> PreTrainedTokenizerFast:
    """EOS 0, pad 1 and five words: peers take masks from the pad, so it is not EOS here."""
    return word_tokenizer(WORDS, pad="<pad>")


def ids(text: str) -> list[int]:
    return list(tokenizer()(text, add_special_tokens=False).input_ids)


def model(kind: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return MODELS[kind](len(tokenizer()), seed=seed).to(dtype)


def saved(kind: str, folder: Path, *, seed: int = 0) -> PreTrainedModel:
    """A model with a path it can be loaded from again, as TRL does for its reference."""
    made = model(kind, seed=seed)
    made.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    made.config._name_or_path = str(folder)
    return made


def random(*shape: int, seed: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def batch(prompts: Sequence[str] = PROMPTS, responses: Sequence[Sequence[str]] = RESPONSES) -> Rollouts:
    return rollouts_of([ids(p) for p in prompts], [[ids(r) for r in group] for group in responses], PAD)


def blank(lengths_PG: Sequence[Sequence[int]], width: int) -> Rollouts:
    """Responses of these lengths whose tokens do not matter: for losses that are given log-probabilities."""
    lengths = torch.tensor(lengths_PG)
    mask = torch.arange(width) < lengths[..., None]
    groups = len(lengths_PG)
    return Rollouts(
        prompt_ids_PL=torch.full((groups, 1), 2),
        prompt_mask_PL=torch.ones(groups, 1, dtype=torch.bool),
        response_ids_PGT=torch.full(mask.shape, 3),
        mask_PGT=mask,
        ended_PG=torch.zeros(lengths.shape, dtype=torch.bool),
    )


@dataclass
class Fixed:
    """A source of the same rollouts again and again."""

    rollouts: Rollouts

    def next(self, iteration: int, meter: Meter) -> Rollouts:
        return self.rollouts

    def progress(self, iteration: int) -> float:
        return 0.0

    def fingerprint(self) -> str:
        return "fixed"


@dataclass
class Update:
    """One update, ours or theirs: the losses, each step's clipped gradients, the weights before and after."""

    before: dict[str, Tensor]
    after: dict[str, Tensor] = field(default_factory=dict)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    @property
    def moved(self) -> float:
        return max(float((self.after[name] - self.before[name]).abs().max()) for name in self.before)


def weights(module: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def gradients(module: Any) -> dict[str, Tensor]:
    return {name: p.grad.detach().clone() for name, p in module.named_parameters() if p.grad is not None}


def flat(tensors: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in names])


def policy_of(trained: PreTrainedModel, reference: PreTrainedModel) -> Policy:
    """A policy that has already moved away from its reference."""
    policy = Policy(trained, tokenizer(), dtype="fp32")
    policy._reference = Frozen(reference)
    return policy


def our_update(
    algorithm: Algorithm,
    policy: Policy,
    rollouts: Rollouts,
    *,
    temperature: float = 1.0,
    micro_batch: int | None = None,
    state: TrainState | None = None,
) -> Update:
    """One whole iteration of `train()`'s loop on the given rollouts: scoring, `prepare` and every step."""
    state = state or TrainState.start(algorithm, policy, seed=0)
    # Not the first iteration, for which the loop demands a policy that equals its reference.
    state.meter.iterations = 1
    update = Update(weights(policy.model))
    state.optimizer.register_step_pre_hook(lambda *_: update.gradients.append(gradients(policy.model)))
    row = Loop(state, Fixed(rollouts), temperature, None, micro_batch).iterate()
    update.losses.append(torch.tensor(row["loss"], dtype=policy.model.dtype))
    update.after = weights(policy.model)
    return update


def before_update(
    policy: Policy, rollouts: Rollouts, temperature: float, critic: Critic | None = None
) -> Rollouts:
    """What `prepare` is given: the log-probabilities of policy and reference and, with a critic, values."""
    referred = with_reference(policy, rollouts, temperature)
    return with_policy(policy, referred, temperature, critic)


def scored(rollouts: Rollouts, scores: Sequence[Sequence[float]]) -> Rollouts:
    return replace(rollouts, scores_PG=torch.tensor(scores))
