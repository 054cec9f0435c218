"""Where a run's batches come from: sampled prompts or recorded pairs, checked before training begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from algos.engine.budget import Meter
from algos.engine.errors import UserError
from algos.engine.pairs import PairSource, encode_pairs, reference_logps
from algos.engine.prompts import PromptSource, encode_prompts
from algos.engine.rewards import Reward
from algos.engine.rollouts import Rollouts
from algos.engine.settings import Sampling
from algos.engine.state import TrainState


class Source(Protocol):
    """Batch i is a function of (seed, i) and, where it is sampled, of the policy."""

    def next(self, iteration: int, meter: Meter) -> Rollouts: ...

    def progress(self, iteration: int) -> float: ...

    def fingerprint(self) -> str: ...


def from_pairs(
    state: TrainState, pairs: Iterable[Mapping[str, Any]], sampling: Sampling, cache: Path | None
) -> tuple[PairSource, dict[str, int]]:
    """Recorded pairs with the reference's log-probabilities, and counts of what was dropped or cut."""
    needs = state.algorithm.needs
    encoded, counts = encode_pairs(state.policy, pairs, sampling.max_new_tokens)
    with state.meter.running():
        logps = reference_logps(state.policy, encoded, sampling.temperature, cache)
    source = PairSource(state.policy, encoded, needs.pairs_per_step, needs.pair_epochs, state.seed, logps)
    return source, counts


def from_prompts(
    state: TrainState,
    prompts: Iterable[Any],
    reward: Reward,
    sampling: Sampling,
    too_long: Literal["drop", "left"],
) -> tuple[PromptSource, dict[str, int]]:
    """Prompts to sample from, and counts of those that do not fit. Raises UserError for settings under
    which what is learned would not be what was asked."""
    name, needs = state.algorithm.name, state.algorithm.needs
    if sampling.group_size < needs.group_size:
        raise UserError(
            f"{name} needs at least {needs.group_size} responses a prompt; got {sampling.group_size}. "
            f"Set --group-size {needs.group_size}."
        )
    sampling.require_unfiltered()
    encoded, counts = encode_prompts(state.policy, prompts, sampling.max_new_tokens, too_long)
    source = PromptSource(state.policy, encoded, reward, sampling, state.seed, needs.greedy, needs.group_size)
    return source, counts
