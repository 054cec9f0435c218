"""`train()`: the one loop that every algorithm runs in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from algos.engine.algorithm import Algorithm
from algos.engine.budget import Budget
from algos.engine.checks import check_reference
from algos.engine.errors import UserError
from algos.engine.loop import Loop
from algos.engine.policy import Policy
from algos.engine.rewards import Reward
from algos.engine.settings import Sampling
from algos.engine.sources import Source, from_pairs, from_prompts
from algos.engine.state import TrainState

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class History:
    """What training logged: one row an iteration."""

    rows: list[dict[str, float]]
    counts: dict[str, int]
    """Rows of the data that were dropped, cut or merged on the way in, by reason."""

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.rows)


Hook = Callable[[TrainState, float], None]
"""Called before the first iteration and after each with the state and the progress in [0, 1]; its time
is not training's."""


def train(
    algorithm: Algorithm,
    policy: Policy,
    *,
    prompts: Iterable[Any] | None = None,
    pairs: Iterable[Mapping[str, Any]] | None = None,
    reward: Reward | None = None,
    sampling: Sampling | None = None,
    budget: str | Budget | None = None,
    seed: int = 0,
    truncate_prompts: Literal["drop", "left"] = "drop",
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 0,
    reference_cache: str | Path | None = None,
    micro_batch: int | None = None,
    hook: Hook | None = None,
) -> History:
    """Trains `policy` in place until the budget or the declared epochs are spent.

    Args:
        prompts: rows with a `prompt` (a text or chat messages) or plain texts, for algorithms that sample.
        pairs: rows with `prompt, chosen, rejected`, for DPO.
        reward: called as TRL calls its reward functions; needed with prompts.
        budget: `20k` completions, `300updates`, `2e15flops`, `90s`, …; optional for recorded pairs.
        checkpoint: a folder for the state, saved every `checkpoint_every` iterations (0: only by the hook);
            training goes on from there if it holds one, of the same settings and data (columns of prompts
            that JSON has no word for are not compared).
        micro_batch: prompts (groups) in one forward and backward, fewer where memory runs out; by default
            what is likely to fit. The result does not depend on it.

    Raises UserError for what the caller can mend, RunError where training itself went wrong.
    """
    sampling = sampling or Sampling()
    budget = None if budget is None else Budget.parse(budget)
    state = TrainState.start(algorithm, policy, seed)
    source: Source
    if algorithm.needs.source == "pairs" and pairs is not None:
        source, counts = from_pairs(state, pairs, sampling, _path(reference_cache))
    elif prompts is not None and reward is not None:
        if budget is None:
            raise UserError(
                "training from prompts has no end of its own; got no budget. Pass budget='20k' or another amount."
            )
        source, counts = from_prompts(state, prompts, reward, sampling, truncate_prompts)
    else:
        wanted = (
            "pairs, or prompts and a reward" if algorithm.needs.source == "pairs" else "prompts and a reward"
        )
        given = "no prompts" if prompts is None else "no reward"
        raise UserError(f"{algorithm.name} learns from {wanted}; got {given}. Pass them to train().")
    folder = _path(checkpoint)
    if folder is not None:
        state.context = {
            "sampling": asdict(sampling),
            "budget": str(budget),
            "data": source.fingerprint(),
        }
        state.load(folder)
    loop = Loop(state, source, sampling.temperature, budget, micro_batch)
    if hook is not None:
        hook(state, min(loop.progress(), 1.0))
    while loop.progress() < 1:
        with state.meter.running():
            row = loop.iterate()
        state.history.append({**state.meter.as_dict(), "fraction": min(loop.progress(), 1.0), **row})
        if hook is not None:
            hook(state, min(loop.progress(), 1.0))
        # After the hook, so that what it wrote is not written again when training goes on from here.
        if folder is not None and checkpoint_every and state.iteration % checkpoint_every == 0:
            state.save(folder)
    check_reference(policy, state.reference)
    return History(state.history, counts)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
