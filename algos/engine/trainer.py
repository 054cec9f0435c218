"""`train()`: the one loop that every algorithm runs in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from algos.engine.algorithm import Algorithm
from algos.engine.budget import Budget
from algos.engine.checks import check_batch, check_gradient, check_loss, check_reference, check_responses
from algos.engine.errors import RunError, UserError
from algos.engine.forward import forward, groups_per_forward
from algos.engine.memory import ADAPTERS, LIGHTER
from algos.engine.monitor import add_metrics, describe, mean_of_steps
from algos.engine.policy import Policy
from algos.engine.rewards import Reward
from algos.engine.rollouts import Rollouts
from algos.engine.sampling import Sampling
from algos.engine.scoring import check_ratio, check_start, complete, score_policy
from algos.engine.seeding import generator
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


MAX_IDLE = 100  # a budget in updates would otherwise never be spent

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
            training goes on from there if it holds one.
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
    loop = _Loop(state, source, sampling.temperature, budget, micro_batch)
    if hook is not None:
        hook(state, loop.progress())
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


class _Loop:
    """One iteration after another: sample, score, prepare, and as many steps as the algorithm takes."""

    def __init__(
        self,
        state: TrainState,
        source: Source,
        temperature: float,
        budget: Budget | None,
        micro_batch: int | None,
    ) -> None:
        self.state, self.source, self.temperature = state, source, temperature
        self.budget, self.micro_batch = budget, micro_batch

    def progress(self) -> float:
        """The fraction of the run that is done: of the budget or of the declared epochs, what ends first."""
        return max(self.state.meter.spent(self.budget), self.source.progress(self.state.iteration))

    def iterate(self) -> dict[str, float]:
        """One batch of rollouts and its updates; returns what to log of it."""
        state, algorithm = self.state, self.state.algorithm
        progress = self.progress()
        rate = learning_rate(algorithm, progress)
        rollouts = self.source.next(state.iteration, state.meter)
        check_responses(state.policy, rollouts, state.iteration)
        recorded = rollouts.ref_logps_PGT is not None
        rollouts = complete(state.policy, rollouts, algorithm.needs, self.temperature, state.critic)
        check_batch(state.policy, rollouts, state.iteration)
        if not recorded:
            state.meter.charge(state.policy.size, rollouts.token_count)
        if state.iteration == 0:
            logps_PGT = rollouts.logps_PGT
            check_start(
                state.policy,
                rollouts,
                logps_PGT
                if logps_PGT is not None
                else score_policy(state.policy, rollouts, self.temperature)[0],
            )
        with torch.no_grad():
            prepared, state.own = algorithm.prepare(rollouts, state.own)
        if prepared.P:
            check_batch(state.policy, prepared, state.iteration)
        steps = self._steps(prepared, rate) if prepared.P else []
        state.idle = 0 if steps else state.idle + 1
        if state.idle == MAX_IDLE:
            raise RunError(
                f"{MAX_IDLE} iterations in a row made no updates: the reward tells no two responses to a prompt "
                "apart. Give a reward that does, or a larger --group-size."
            )
        state.meter.iterations += 1
        return {"learning_rate": rate, **describe(rollouts, prepared, state.own), **mean_of_steps(steps)}

    def _steps(self, prepared: Rollouts, rate: float) -> list[dict[str, float]]:
        state, algorithm = self.state, self.state.algorithm
        steps = []
        for number in range(algorithm.passes):
            order = generator(state.seed, "minibatches", state.iteration, number)
            for minibatch in prepared.minibatches(algorithm.steps_per_pass, order):
                steps.append(self._step(minibatch, rate, first=state.meter.updates == 0))
        return steps

    def _step(self, minibatch: Rollouts, rate: float, first: bool) -> dict[str, float]:
        """One optimizer step; its gradient is that of the whole minibatch whatever the micro-batch.

        Where memory runs out the step begins anew with half the micro-batch.
        """
        state, policy = self.state, self.state.policy
        groups = self.micro_batch or max(1, groups_per_forward(minibatch, policy.vocabulary) // 2)
        metrics = policy.portions.run(
            "training",
            min(groups, minibatch.P),
            lambda groups: self._accumulate(minibatch, groups, first),
            LIGHTER,
        )
        norm = torch.nn.utils.clip_grad_norm_(state.parameters, state.algorithm.max_grad_norm)
        check_gradient(policy, norm, state.meter.updates, state.iteration)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        # Not in parts: the optimizer's two moments of every trained weight are there whole or not at all.
        policy.portions.run("the optimizer's step", 1, lambda _: state.optimizer.step(), ADAPTERS)
        state.meter.updates += 1
        self._charge(minibatch)
        return {name: float(value) for name, value in metrics.items()} | {"gradient_norm": float(norm)}

    def _accumulate(self, minibatch: Rollouts, groups: int, first: bool) -> dict[str, Tensor]:
        """The gradient of a step, from none, in parts of so many prompts; returns what to log."""
        state, policy = self.state, self.state.policy
        state.optimizer.zero_grad(set_to_none=True)
        metrics: dict[str, Tensor] = {}
        with policy.for_backward(state.critic):
            for part in minibatch.micro_batches(groups):
                outputs = forward(policy.model, part, self.temperature, policy.dtype, state.critic)
                if first:
                    check_ratio(policy, part, outputs.logps_PGT)
                loss, logged = state.algorithm.loss(outputs, part)
                check_loss(policy, part, outputs, loss, state.meter.updates, state.iteration)
                loss.backward()
                add_metrics(metrics, {"loss": loss.detach(), **logged})
        return metrics

    def _charge(self, minibatch: Rollouts) -> None:
        state, tokens = self.state, minibatch.token_count
        state.meter.trained_tokens += int(minibatch.mask_PGT.sum())
        state.meter.charge(state.policy.size, tokens, state.policy.backward_factor)
        if state.critic is not None:
            state.meter.charge(state.critic.trunk_size, tokens, 6 + state.policy.recomputation)


def learning_rate(algorithm: Algorithm, progress: float) -> float:
    """A function of the fraction of the run that is done: the number of updates is not known beforehand."""
    if progress < algorithm.warmup:
        return algorithm.learning_rate * min(max(progress, 1e-3) / algorithm.warmup, 1.0)
    rest = (progress - algorithm.warmup) / (1 - algorithm.warmup)
    shape = {"constant": 1.0, "linear": 1 - rest, "cosine": 0.5 * (1 + math.cos(math.pi * rest))}
    return algorithm.learning_rate * shape[algorithm.schedule]
