"""What the engine can be set to, besides its algorithms: plain values that take no model to read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from algos.engine.algorithm import require

Precision = Literal["auto", "fp32", "bf16"]
Truncation = Literal["drop", "left"]
"""What becomes of a prompt that is too long for the model: it is dropped, or loses its beginning."""


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn. The same for every arm of a comparison."""

    max_new_tokens: int = 64
    """The most tokens of a response; recorded ones are cut to it, too."""
    temperature: float = 1.0
    """Sampling temperature in training; divides the logits of policy and reference alike."""
    group_size: int = 4
    """Responses per prompt."""
    prompts_per_iteration: int = 16
    """Prompts per iteration of the arms that learn from samples."""
    greedy_prefix: int = 0
    """Decode this many first tokens greedily and sample the rest; greedy tokens carry no loss."""
    missing_eos_penalty: float = 0.0
    """Subtracted, once, from the training reward of a response that hits the length limit."""

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, "max_new_tokens", "at least 1", self.max_new_tokens)
        require(0 < self.temperature < math.inf, "temperature", "above 0 and finite", self.temperature)
        require(self.group_size >= 1, "group_size", "at least 1", self.group_size)
        require(
            self.prompts_per_iteration >= 1, "prompts_per_iteration", "at least 1", self.prompts_per_iteration
        )
        require(
            0 <= self.greedy_prefix < self.max_new_tokens,
            "greedy_prefix",
            f"in [0, max_new_tokens = {self.max_new_tokens})",
            self.greedy_prefix,
        )
        require(
            0 <= self.missing_eos_penalty < math.inf,
            "missing_eos_penalty",
            "at least 0 and finite",
            self.missing_eos_penalty,
        )


def require_filters(top_p: float, top_k: int) -> None:
    """Raises `UserError` for filters of the sampler that are out of range. `Sampling` has none: ratios and KL are made of
    the whole distribution, so what is learned from is drawn from it."""
    require(0 < top_p <= 1, "top_p", "in (0, 1]", top_p)
    require(top_k >= 0, "top_k", "at least 0", top_k)


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (Hu et al. 2021) through peft; the reference is then the model with the adapter switched off."""

    rank: int = 16
    """Rank of the adapters' matrices."""
    alpha: int = 32
    """Adapters are scaled by alpha ÷ rank."""
    targets: str = "all-linear"
    """Module names as peft takes them, comma-separated, or `all-linear`."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, "lora rank", "at least 1", self.rank)
        require(self.alpha > 0, "lora alpha", "above 0", self.alpha)
        names = isinstance(self.targets, str)
        require(names, "lora targets", "names with commas between them, or all-linear", repr(self.targets))
