"""Where a run's batches come from: sampled prompts or recorded pairs, checked before training begins."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Protocol

from algos.engine.algorithm import Algorithm
from algos.engine.batches.pairs import encode_pairs
from algos.engine.batches.prompts import SPECIAL_TEXT, encode_prompts
from algos.engine.batches.recorded import PairSource, reference_logps
from algos.engine.batches.sampled import PromptSource
from algos.engine.budget import Budget, Meter
from algos.engine.errors import UserError
from algos.engine.rewards import Reward
from algos.engine.rollouts import Rollouts
from algos.engine.settings import Sampling, Truncation
from algos.engine.state import TrainState

logger = logging.getLogger(__name__)

_FEW = 0.05
"""The share of pairs that may have a response cut without a word of it."""


class Source(Protocol):
    """Batch i is a function of (seed, i) and, where it is sampled, of the policy."""

    def next(self, iteration: int, meter: Meter) -> Rollouts: ...

    def progress(self, iteration: int) -> float: ...

    def fingerprint(self) -> str: ...


def source_of(
    state: TrainState,
    *,
    prompts: Iterable[Any] | None,
    pairs: Iterable[Mapping[str, Any]] | None,
    reward: Reward | None,
    sampling: Sampling | None,
    budget: Budget | None,
    truncate_prompts: Truncation,
    reference_cache: Path | None,
) -> tuple[Source, dict[str, int]]:
    """Where the batches of `train` come from, which was given these, and counts of rows that were dropped, cut or merged.

    Raises UserError where something is missing, where nothing would read something that is there, and for data that
    nothing can be learned from.
    """
    algorithm = state.algorithm
    learns_from_pairs = algorithm.needs.source == "pairs"
    if learns_from_pairs and pairs is not None:
        _refuse_unread(algorithm, "pairs", prompts=prompts, reward=reward)
        return _from_pairs(state, pairs, sampling, truncate_prompts, reference_cache)
    if prompts is not None and reward is not None:
        if budget is None:
            raise UserError(
                "training from prompts has no end of its own; got no budget. Pass budget='20k' or another amount."
            )
        _refuse_unread(algorithm, "prompts", pairs=pairs, reference_cache=reference_cache)
        return _from_prompts(state, prompts, reward, sampling or Sampling(), truncate_prompts)
    wanted = "pairs, or prompts and a reward" if learns_from_pairs else "prompts and a reward"
    given = "no prompts" if prompts is None else "no reward"
    raise UserError(f"{algorithm.name} learns from {wanted}; got {given}. Pass them to train().")


def _from_pairs(
    state: TrainState,
    pairs: Iterable[Mapping[str, Any]],
    sampling: Sampling | None,
    truncate_prompts: Truncation,
    cache: Path | None,
) -> tuple[PairSource, dict[str, int]]:
    """Recorded pairs with the reference's log-probabilities, and counts of what was dropped or cut; without `sampling`
    responses are cut at the model's last position alone."""
    needs = state.algorithm.needs
    rows = _rows_of(pairs, "pairs")
    limit, temperature = (sampling.max_new_tokens, sampling.temperature) if sampling else (None, 1.0)
    encoded, counts = encode_pairs(state.policy, rows, limit, truncate_prompts, "pairs")
    _require_some("preference pairs", encoded, counts, "Give more or shorter pairs.")
    _tell("pairs", encoded, counts, limit)
    with state.meter.preparing():
        logps = reference_logps(state.policy, encoded, temperature, cache, state.reference_digest)
    source = PairSource(state.policy, encoded, needs.pairs_per_step, needs.pair_epochs, state.seed, logps)
    return source, counts


def _from_prompts(
    state: TrainState,
    prompts: Iterable[Any],
    reward: Reward,
    sampling: Sampling,
    truncate_prompts: Truncation,
) -> tuple[PromptSource, dict[str, int]]:
    """Prompts to sample from, and counts of those that do not fit. Raises UserError for settings under
    which what is learned would not be what was asked."""
    name, needs = state.algorithm.name, state.algorithm.needs
    if sampling.group_size < needs.min_group_size:
        raise UserError(
            f"{name} needs at least {needs.min_group_size} responses a prompt; got {sampling.group_size}. "
            f"Set --group-size {needs.min_group_size}."
        )
    rows = _rows_of(prompts, "prompts")
    encoded, counts = encode_prompts(state.policy, rows, sampling.max_new_tokens, truncate_prompts, "prompts")
    remedy = "Give shorter ones, or pass truncate_prompts='left' (--truncate-prompts left)."
    _require_some("prompts", encoded, counts, remedy)
    _tell("prompts", encoded, counts)
    source = PromptSource(
        state.policy, encoded, reward, sampling, state.seed, needs.greedy, needs.min_group_size
    )
    return source, counts


def _rows_of(data: Any, name: str) -> Iterable[Any]:
    """What `train` was given as prompts or pairs, row by row: a DataFrame's rows, else its items.

    Raises UserError for what has columns, splits or characters for items, and for what has none.
    """
    if hasattr(data, "itertuples"):  # a pandas DataFrame, whose items are the names of its columns
        return data.to_dict("records")
    if isinstance(data, Mapping):
        keys = ", ".join(map(str, data)) or "nothing"
        raise UserError(
            f"{name} must come row by row; got a {type(data).__name__} of {keys}. "
            "Pass a list of rows, a DataFrame, or one split of a DatasetDict."
        )
    if isinstance(data, (str, bytes)) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise UserError(
            f"{name} must come row by row; got {type(data).__name__}. "
            "Pass a list; what is in a file is to be read first."
        )
    return data


def _refuse_unread(algorithm: Algorithm, source: Literal["prompts", "pairs"], **given: Any) -> None:
    """Raises UserError for what nothing would read: data that `train` was given beside the source of its batches, and settings
    about recorded pairs of an algorithm that is for them and has prompts instead."""
    unread = " and ".join(name for name, value in given.items() if value is not None)
    if unread:
        raise UserError(
            f"{algorithm.name} learns from {source} here; got {unread} as well, which nothing would read. "
            f"Leave out {unread}."
        )
    if source == "prompts" and algorithm.needs.source == "pairs":
        defaults = {setting.name: setting.default for setting in fields(algorithm)}
        for name in algorithm.pair_settings:
            value = getattr(algorithm, name)
            if value != defaults[name]:
                raise UserError(
                    f"{name} is about recorded pairs; got {value}, and prompts alone. Leave it out, or give pairs."
                )


def _tell(kind: str, kept: Sequence[Any], counts: Mapping[str, int], limit: int | None = None) -> None:
    """Warns of what was lost of rows that are kept: a `History` tells it when all is done."""
    special, cut = counts.get(SPECIAL_TEXT, 0), counts.get("response truncated", 0)
    if special:
        logger.warning(
            "%d of %d %s hold the text of special tokens, which is read as characters. If they went through a chat "
            "template before, give lists of messages instead.", special, len(kept), kind,
        )  # fmt: skip
    if cut > _FEW * len(kept):
        at = "" if limit is None else f"max_new_tokens={limit} or "
        logger.warning(
            "%d of %d pairs have a response cut at %sthe model's last position, which then has no end.",
            cut, len(kept), at,
        )  # fmt: skip


def _require_some(kind: str, kept: Sequence[Any], counts: Mapping[str, int], remedy: str) -> None:
    """Raises UserError where there is nothing to train on, and says why."""
    if kept:
        return
    if not counts:
        raise UserError(
            f"no {kind} to train on; got 0 rows. Give some; a generator that was read before has none left."
        )
    dropped = ", ".join(f"{count} × {reason}" for reason, count in counts.items())
    raise UserError(f"no {kind} left to train on; all rows were dropped ({dropped}). {remedy}")
