"""`train()`: the one loop that every algorithm runs in."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from algos.engine.algorithm import Algorithm, require
from algos.engine.batches.sources import source_of
from algos.engine.budget import Budget
from algos.engine.checks import check_reference
from algos.engine.loop import Loop, idle
from algos.engine.models.policy import Policy
from algos.engine.rewards import Reward
from algos.engine.settings import Sampling, Truncation
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
"""Called before the first iteration, when `state.history` is empty (unless a checkpoint was gone on from), and after each,
with the state and the progress in [0, 1]; its time is not training's."""


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
    truncate_prompts: Truncation = "drop",
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 10,
    reference_cache: str | Path | None = None,
    micro_batch: int | None = None,
    hook: Hook | None = None,
) -> History:
    """Trains `policy` in place until the budget or the declared epochs are spent.

    Args:
        policy: as loaded, one fresh `Policy` a run: the reference is what it was then, from which KL is measured.
        prompts: rows with a `prompt` (a text or chat messages) or plain texts, for algorithms that sample: a list, a
            generator, a `datasets.Dataset` or a DataFrame.
        pairs: rows with `prompt, chosen, rejected`, likewise, for DPO; without prompts and reward.
        reward: called as TRL calls its reward functions; needed with prompts.
        sampling: `Sampling()` where it is not given, except that recorded responses are then whole: they are cut at the
            model's last position alone, not at `max_new_tokens`.
        budget: `20k` completions, `300updates`, `2e15flops`, `90s`, …; optional for recorded pairs.
        seed: an integer; the same one gives the same run.
        truncate_prompts: what becomes of prompts too long for the model: "drop" or "left", which cuts their beginning.
        checkpoint: a folder for the state; training goes on from there if it holds one, of the same settings and
            data (columns of prompts that JSON has no word for are not compared).
        checkpoint_every: iterations, not seconds, between two saves to `checkpoint`; one more is made at the end. 0: none
            but those that the hook makes, by `state.save`. Without `checkpoint` it means nothing. (The command line's
            --checkpoint-every counts seconds, and its 0 saves after every iteration.)
        reference_cache: a folder in which the reference's log-probabilities of recorded pairs are kept, so that the next
            run on the same pairs from the same reference reads them there; with pairs alone.
        micro_batch: prompts (groups) in one forward and backward, fewer where memory runs out; by default
            what is likely to fit. The result does not depend on it.
        hook: called as `hook(state, progress)` before the first iteration made here, with a `state.history` that is empty
            unless a checkpoint was gone on from and `state.prepared` None, and after each; `state` is a `TrainState`,
            `state.history[-1]` the row just logged, `state.prepared` the batch it is about, `state.save(folder)` a
            checkpoint. What it raises ends the run.

    Raises UserError for what the caller can mend, RunError where training itself went wrong.
    """
    _require_kinds(policy, sampling, reward)
    budget = None if budget is None else Budget.parse(budget)
    seed = _integer("seed", seed)
    checkpoint_every = _integer("checkpoint_every", checkpoint_every, 0)
    micro_batch = None if micro_batch is None else _integer("micro_batch", micro_batch, 1)
    known = truncate_prompts in get_args(Truncation)
    require(known, "truncate_prompts", "'drop' or 'left'", repr(truncate_prompts))
    state = TrainState.start(algorithm, policy, seed)
    _without_dropout(state)  # whatever was done to the model since it became a policy
    source, counts = source_of(
        state, prompts=prompts, pairs=pairs, reward=reward, sampling=sampling, budget=budget,
        truncate_prompts=truncate_prompts, reference_cache=_path(reference_cache),
    )  # fmt: skip
    folder = _path(checkpoint)
    sampling = sampling or Sampling()
    # Without a folder, too: a hook may save to one from which training goes on later.
    state.context = {"sampling": asdict(sampling), "budget": str(budget), "data": source.fingerprint()}
    if folder is not None:
        state.load(folder)
    loop = Loop(state, source, sampling.temperature, budget, micro_batch)
    _call(hook, state, loop)
    while loop.progress() < 1:
        with state.meter.running():
            row = loop.iterate()
        state.history.append({**state.meter.logged(), "fraction": min(loop.progress(), 1.0), **row})
        _call(hook, state, loop)
        # After the hook, so that what it wrote is not written again when training goes on from here.
        due = checkpoint_every and (state.iteration % checkpoint_every == 0 or loop.progress() >= 1)
        if folder is not None and due:
            state.save(folder)
    if state.meter.updates == 0:
        raise idle("the run ended before its first update")
    check_reference(policy, state.reference_digest)
    return History(state.history, counts)


def _call(hook: Hook | None, state: TrainState, loop: Loop) -> None:
    if hook is None:
        return
    hook(state, min(loop.progress(), 1.0))
    _without_dropout(state)  # which a hook may have switched on


def _without_dropout(state: TrainState) -> None:
    state.policy.model.eval()
    if state.critic is not None:
        state.critic.eval()


def _require_kinds(policy: Any, sampling: Any, reward: Any) -> None:
    """Raises UserError for what is of another type than `train` can do anything with."""
    load = "a Policy, such as Policy.load('DIR_OR_HUB_ID')"
    require(isinstance(policy, Policy), "policy", load, _brief(policy))
    drawn = sampling is None or isinstance(sampling, Sampling)
    require(drawn, "sampling", "a Sampling, such as Sampling(max_new_tokens=64)", _brief(sampling))
    one = "one function (for several rewards, one that adds them up) or RewardModel('DIR_OR_HUB_ID')"
    require(reward is None or callable(reward), "reward", one, _brief(reward))


def _brief(value: Any) -> str:
    """A text as it is, anything else by its type: a model or its data would fill pages."""
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"


def _integer(name: str, value: Any, least: float = -math.inf) -> int:
    """The value as an int, numpy's kinds included. Raises UserError for what is none, and for less than `least`."""
    number: int | None
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    expected = f"an integer of at least {least}" if math.isfinite(least) else "an integer"
    require(number is not None and number >= least, name, expected, repr(value))
    return int(value)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
