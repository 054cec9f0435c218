"""What the engine can be set to, besides its algorithms: plain values that take no model to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from algos.engine.algorithm import require

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn. The same for every arm of a comparison."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    group_size: int = 4
    """Responses a prompt."""
    prompts_per_iteration: int = 16
    greedy_prefix: int = 0
    """The first so many tokens are greedy, the rest sampled; they carry no loss."""
    top_p: float = 1.0
    top_k: int = 0
    """Filters (0 and 1.0: off) are for evaluation: in training they would make ratios meaningless."""
    missing_eos_penalty: float = 0.0
    """Subtracted, once, from the training reward of a response that hits the length limit."""

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, "max_new_tokens", "at least 1", self.max_new_tokens)
        require(self.temperature > 0, "temperature", "above 0", self.temperature)
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
        require(0 < self.top_p <= 1, "top_p", "in (0, 1]", self.top_p)
        require(self.top_k >= 0, "top_k", "at least 0", self.top_k)
        require(self.missing_eos_penalty >= 0, "missing_eos_penalty", "at least 0", self.missing_eos_penalty)


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (Hu et al. 2021) through peft; the reference is then the adapter switched off."""

    rank: int = 16
    alpha: int = 32
    targets: str = "all-linear"
    """Module names as peft takes them, comma-separated, or `all-linear`."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, "lora rank", "at least 1", self.rank)
        require(self.alpha > 0, "lora alpha", "above 0", self.alpha)
