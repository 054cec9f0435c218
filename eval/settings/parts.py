"""Parts of an experiment that are settings of one thing each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from algos import Sampling
from algos.engine.algorithm import require, require_choices
from algos.engine.settings import require_filters
from eval.frontier.plain import unusual


@dataclass(frozen=True)
class Evaluation:
    """How every policy is evaluated: the same prompts, the same random numbers."""

    prompts: int = 64
    """Held-out test prompts; all of them if there are fewer."""
    responses: int = 1
    """Responses per prompt."""
    points: int = 5
    """Evaluations during training: the i-th of n at the fraction (i/n)² of the run, so denser early, where the policy moves fastest."""
    batch_size: int = 64
    """Responses in one forward pass."""
    decoding: Literal["sample", "greedy"] = "sample"
    """How the responses to be judged are generated. KL and entropy are measured on plain samples."""
    temperature: float = 1.0
    """Sampling temperature of the judged responses; 1 is the policy itself."""
    top_p: float = 1.0
    """Nucleus sampling for the judged responses: only the likeliest tokens up to this total probability; 1: off."""
    top_k: int = 0
    """Sample the judged responses from this many likeliest tokens only; 0: off."""
    greedy_prefix: int = 0
    """Decode this many first tokens of the judged responses greedily and sample the rest."""

    def __post_init__(self) -> None:
        require_choices(self)
        for name in ("prompts", "responses", "points", "batch_size"):
            require(getattr(self, name) >= 1, f"eval {name}", "at least 1", getattr(self, name))
        self.sampling(max(1, self.greedy_prefix + 1))  # checks temperature and prefix
        require_filters(self.top_p, self.top_k)
        if self.decoding == "greedy":
            alone = "as it is by default where decoding is greedy, which draws nothing"
            for name in unusual(vars(self) | {"decoding": "sample"}):
                require(False, f"eval {name}", alone, getattr(self, name))
            require(
                self.responses == 1,
                "eval responses",
                "1 where decoding is greedy: others would be the same",
                self.responses,
            )

    @property
    def is_plain(self) -> bool:
        """Whether the responses that are judged are samples of the policy itself."""
        return not unusual(vars(self))

    def sampling(self, max_new_tokens: int) -> Sampling:
        """How the responses that are judged are drawn, filters aside. Raises UserError for a prefix as long as they are."""
        return Sampling(
            max_new_tokens=max_new_tokens,
            group_size=self.responses,
            temperature=self.temperature,
            greedy_prefix=self.greedy_prefix,
        )


@dataclass(frozen=True)
class Frontier:
    """How the best reachable reward at each KL is estimated: the same prompts answered many times by every policy."""

    prompts: int = 16
    """Test prompts."""
    samples: int = 256
    """Responses per prompt of the reference and of each arm (fewer each beyond three arms); 0: no frontier."""

    def __post_init__(self) -> None:
        require(self.prompts >= 1, "frontier prompts", "at least 1 (no frontier: samples 0)", self.prompts)
        # Of one response a prompt nothing can be estimated.
        several = self.samples == 0 or self.samples >= 2
        require(several, "frontier samples", "0 (no frontier) or at least 2", self.samples)

    def each(self, arms: int) -> int:
        """Responses per prompt of each of so many arms: together they draw about three times what the reference draws,
        so that the size of the pool, though not the number of policies that score it, stays the same."""
        return min(self.samples, -(-3 * self.samples // max(arms, 1)))


@dataclass(frozen=True)
class RewardTraining:
    """How a reward model, initialised from the model, is trained when only pairs are given."""

    epochs: int = 1
    """Passes over the pairs."""
    learning_rate: float = 1e-5
    """The peak: it rises from 0 over the first 5% of the updates, then falls to 0."""
    batch_size: int = 32
    """Pairs per optimizer step."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "reward-model epochs", "at least 1", self.epochs)
        usable = 0 < self.learning_rate < math.inf
        require(usable, "reward-model learning_rate", "above 0 and finite", self.learning_rate)
        require(self.batch_size >= 1, "reward-model batch_size", "at least 1", self.batch_size)
