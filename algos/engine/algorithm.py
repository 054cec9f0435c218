"""What an algorithm is: a frozen dataclass of hyper-parameters and two pure steps, `prepare` and `loss`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from algos.engine.errors import UserError
from algos.engine.rollouts import Rollouts

State = dict[str, Tensor]
"""Tensors of an algorithm that live across iterations: a moving baseline, an adaptive beta."""


@dataclass(frozen=True)
class Needs:
    """What an algorithm asks of the engine."""

    source: Literal["prompts", "pairs"] = "prompts"
    """The data it learns from by itself; `pairs` learners also accept prompts with a reward."""
    min_group_size: int = 1
    """The fewest responses a prompt it can learn from."""
    values: Literal["shared", "separate"] | None = None
    """Whether a value function is learned, and whether on the policy's trunk or on its own."""
    value_learning_rate: float | None = None
    """Of what the value function alone has, its head or a network of its own; None: that of the policy."""
    old_logps: bool = True
    """Whether `prepare` or `loss` reads the log-probabilities of the policy before the update."""
    greedy: bool = False
    """Whether each prompt also gets a greedy response, scored as a baseline."""
    pairs_per_step: int = 1
    """Of recorded pairs, where they are the source: how many an iteration learns from."""
    pair_epochs: int = 1
    """Of recorded pairs, likewise: passes over all of them."""
    passes: int = 1
    """Passes over each batch."""
    steps_per_pass: int = 1
    """Optimizer steps each pass is split into."""

    def __post_init__(self) -> None:
        # Not by require_choices, which reads annotations: `needs` is asked for many times an iteration.
        require(
            self.source in ("prompts", "pairs"), "Needs.source", "'prompts' or 'pairs'", repr(self.source)
        )
        known = self.values in ("shared", "separate", None)
        require(known, "Needs.values", "'shared', 'separate' or None", repr(self.values))
        require(self.pairs_per_step >= 1, "Needs.pairs_per_step", "at least 1", self.pairs_per_step)
        require(self.pair_epochs >= 1, "Needs.pair_epochs", "at least 1", self.pair_epochs)

    @property
    def old_policy(self) -> bool:
        """Whether the batch goes through the policy before the update: for log-probabilities, or for values, which come in
        the same pass."""
        return self.old_logps or self.values is not None


@dataclass(frozen=True)
class Outputs:
    """What the engine's forward pass gives `loss`, all [P, G, T] in nats; values in units of reward."""

    logps_PGT: Tensor
    entropy_PGT: Tensor
    """Of the next-token distribution; for the log only, it carries no gradient."""
    values_PGT: Tensor | None = None


@dataclass(frozen=True)
class Algorithm(ABC):
    """Hyper-parameters every algorithm has, and the two steps that tell them apart."""

    beta: float = 0.05
    """Coefficient of the KL to the reference; for DPO, the β of its loss."""
    learning_rate: float = 1e-5
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls to 0 with the fraction of the run (of the budget or of DPO's epochs, whichever ends first); `constant` does not fall."""
    warmup: float = 0.0
    """Fraction of the run over which the learning rate rises from 0."""
    max_grad_norm: float = 1.0
    """The norm that the gradient, of policy and value function together, is clipped to."""
    weight_decay: float = 0.0
    """AdamW's, decoupled from the gradient."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's two moments."""
    adam_eps: float = 1e-8
    """What AdamW adds to the root of the second moment."""

    name: ClassVar[str]
    pair_settings: ClassVar[tuple[str, ...]] = ()
    """Settings that are about recorded pairs alone: without them they have no effect."""

    def __post_init__(self) -> None:
        require_choices(self)
        require(0 <= self.beta < math.inf, "beta", "at least 0 and finite", self.beta)
        require(0 < self.learning_rate < math.inf, "learning_rate", "above 0 and finite", self.learning_rate)
        require(0 <= self.warmup < 1, "warmup", "a fraction in [0, 1)", self.warmup)
        require(self.max_grad_norm > 0, "max_grad_norm", "above 0", self.max_grad_norm)
        decays = 0 <= self.weight_decay < math.inf
        require(decays, "weight_decay", "at least 0 and finite", self.weight_decay)
        betas = self.adam_betas
        within = len(betas) == 2 and all(0 <= beta < 1 for beta in betas)
        require(within, "adam_betas", "two numbers in [0, 1)", betas)
        # At 0 a weight without a gradient, such as a word's that no text has, would become 0/0.
        require(0 < self.adam_eps < math.inf, "adam_eps", "above 0 and finite", self.adam_eps)

    @property
    @abstractmethod
    def needs(self) -> Needs: ...

    def init_state(self) -> State:
        return {}

    @abstractmethod
    def prepare(self, rollouts: Rollouts, state: State) -> tuple[Rollouts, State]:
        """Once an iteration, without gradient: advantages and returns, or which responses to compare."""

    @abstractmethod
    def loss(self, outputs: Outputs, prepared: Rollouts) -> tuple[Tensor, dict[str, Tensor]]:
        """With gradient: the scalar to descend and what to log.

        `prepared` may be one micro-batch of an optimizer step: loss and metrics are this part's share
        of the step's averages (see `Totals`) and add up over the parts; names ending in `_max` are maxima.
        """


def require_algorithm(algorithm: Any) -> None:
    """Raises `UserError` for what does not keep to the protocol of `Algorithm`, as a class without hyper-parameters."""
    if not isinstance(algorithm, Algorithm):
        kind = algorithm.__name__ if isinstance(algorithm, type) else type(algorithm).__name__
        raise UserError(f"an algorithm is an instance of a subclass of Algorithm, such as PPO(); got {kind}.")
    kind = type(algorithm).__name__
    if not isinstance(getattr(algorithm, "name", None), str):
        raise UserError(
            f"{kind} has no name: give its class one, as in name: ClassVar[str] = {kind.lower()!r}."
        )
    odd = [key for key, value in algorithm.init_state().items() if not isinstance(value, Tensor)]
    if odd:
        raise UserError(
            f"what {kind}.init_state returns must be tensors; got another type for {', '.join(odd)}."
        )


def require_value_settings(coefficient: float, learning_rate: float | None) -> None:
    """What every algorithm with a value function asks of its settings. Raises `UserError`."""
    require(0 <= coefficient < math.inf, "value_coefficient", "at least 0 and finite", coefficient)
    usable = learning_rate is None or 0 < learning_rate < math.inf
    require(usable, "value_learning_rate", "above 0 and finite", learning_rate)


def require_choices(settings: Any) -> None:
    """Raises `UserError` where a field whose type is a `Literal` holds anything else."""
    for name, kind in get_type_hints(type(settings)).items():
        if get_origin(kind) is Literal and getattr(settings, name) not in get_args(kind):
            require(
                False, name, f"one of {', '.join(map(str, get_args(kind)))}", repr(getattr(settings, name))
            )


def require(holds: bool, name: str, expected: str, got: object) -> None:
    """Raises `UserError` naming the setting, what it must be and what it was."""
    if not holds:
        raise UserError(f"{name} must be {expected}; got {got}.")
