"""One iteration after another: sample, score, prepare, and as many optimizer steps as the algorithm takes."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from algos.engine.algorithm import Algorithm, Outputs
from algos.engine.batches.sources import Source
from algos.engine.budget import Budget
from algos.engine.checks import (
    check_batch,
    check_gradient,
    check_loss,
    check_ratio,
    check_responses,
    check_start,
)
from algos.engine.errors import RunError
from algos.engine.forward import forward, groups_per_forward
from algos.engine.memory import ADAPTERS, LIGHTER, out_of_memory_as
from algos.engine.monitor import add_metrics, describe, mean_of_steps, numbers
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_policy, with_policy, with_reference
from algos.engine.seeding import generator
from algos.engine.state import TrainState
from algos.losses import aggregate

_EXCEEDS = "gradient_norm > max_grad_norm"  # read with what is logged, and not logged
MAX_IDLE = 100  # a budget in updates would otherwise never be spent


class Loop:
    """A run in progress; all that changes is in its state."""

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
        self.ahead: Outputs | None = None
        """The first update's forward, where it is made already. Nothing else may hold it: it holds all activations."""

    def progress(self) -> float:
        """The fraction of the run that is done: of the budget or of the declared epochs, what ends first."""
        return max(self.state.meter.spent(self.budget), self.source.progress(self.state.iteration))

    def iterate(self) -> dict[str, float]:
        """One batch of rollouts and its updates; returns what to log of it."""
        state, algorithm = self.state, self.state.algorithm
        state.prepared = None  # before another batch takes memory
        progress = self.progress()
        rate = learning_rate(algorithm, progress)
        rollouts = self.source.next(state.iteration, state.meter)
        check_responses(state.policy, rollouts, state.iteration)
        recorded = rollouts.ref_logps_PGT is not None
        if not recorded:
            rollouts = with_reference(state.policy, rollouts, self.temperature)
            state.meter.charge(state.policy.size, rollouts.token_count)
        if algorithm.needs.old_policy:
            self.ahead = self._first_forward(rollouts)
            rollouts = with_policy(state.policy, rollouts, self.temperature, state.critic, self.ahead)
        check_batch(state.policy, rollouts, state.iteration)
        if state.iteration == 0:
            self._check_start(rollouts, recorded)
        with torch.no_grad():
            prepared, state.algorithm_state = algorithm.prepare(rollouts, state.algorithm_state)
        if prepared.P:
            check_batch(state.policy, prepared, state.iteration)
        learned_from = prepared.P and bool(prepared.loss_mask_PGT.any())
        if not learned_from or prepared.response_ids_PGT is not rollouts.response_ids_PGT:
            self.ahead = None  # of other responses than those that are learned from, or in another order
        steps = self._steps(prepared, rate) if learned_from else []
        state.idle = 0 if steps else state.idle + 1
        if state.idle == MAX_IDLE:
            raise idle(f"{MAX_IDLE} iterations in a row made no updates")
        state.meter.iterations += 1
        state.prepared = prepared
        return {
            "learning_rate": rate,
            **describe(rollouts, prepared, state.algorithm_state),
            **mean_of_steps(steps),
        }

    def _check_start(self, rollouts: Rollouts, recorded: bool) -> None:
        """The policy scored once as the reference was, which leaves no room for rounding unless that was `recorded`
        before, with other texts; and then against the training forward."""
        logps_PGT, _ = score_policy(self.state.policy, rollouts, self.temperature)
        check_start(self.state.policy, rollouts, logps_PGT, alike=not recorded)
        check_ratio(self.state.policy, rollouts, logps_PGT)

    def _groups(self, batch: Rollouts) -> int:
        """The micro-batch, before memory has its say."""
        fits = self.micro_batch or groups_per_forward(self.state.policy.model, batch, backward=True)
        return min(fits, batch.P)

    def _first_forward(self, rollouts: Rollouts) -> Outputs | None:
        """The first update's forward, made before `prepare` reads from it what the policy was before: the batch
        goes through the model once less. None where the first update takes the batch in parts."""
        policy = self.state.policy
        if self.state.algorithm.needs.steps_per_pass > 1:
            return None

        def attempt(groups: int) -> Outputs | None:
            with policy.for_backward(self.state.critic):
                return self._forward(rollouts) if groups >= rollouts.P else None

        return policy.portions.run("training", self._groups(rollouts), attempt, LIGHTER)

    def _forward(self, part: Rollouts) -> Outputs:
        policy = self.state.policy
        return forward(policy.model, part, self.temperature, policy.dtype, self.state.critic)

    def _steps(self, prepared: Rollouts, rate: float) -> list[dict[str, float]]:
        state, needs = self.state, self.state.algorithm.needs
        steps = []
        for number in range(needs.passes):
            if self.ahead is not None:
                steps.append(self._step(prepared, rate))
                continue
            order = generator(state.seed, "minibatches", state.iteration, number)
            for minibatch in prepared.minibatches(needs.steps_per_pass, order):
                if bool(minibatch.loss_mask_PGT.any()):  # else there is nothing to step along
                    steps.append(self._step(minibatch, rate))
        return steps

    def _step(self, minibatch: Rollouts, rate: float) -> dict[str, float]:
        """One optimizer step; its gradient is that of the whole minibatch whatever the micro-batch.

        Where memory runs out the step begins anew with half the micro-batch, and without what was `ahead`.
        """
        state, policy = self.state, self.state.policy

        def attempt(groups: int) -> dict[str, Tensor]:
            return self._accumulate(minibatch, groups)

        metrics = policy.portions.run("training", self._groups(minibatch), attempt, LIGHTER)
        norm = get_total_norm([p.grad for p in state.parameters if p.grad is not None])
        longest = state.algorithm.max_grad_norm
        exceeds = (norm + 1e-6 > longest).to(norm.dtype)
        logged = numbers({**metrics, "gradient_norm": norm, _EXCEEDS: exceeds})
        check_gradient(policy, logged["gradient_norm"], state.meter.updates, state.iteration)
        if logged.pop(_EXCEEDS):  # else torch would multiply every gradient by 1
            clip_grads_with_norm_(state.parameters, longest, norm)
        for group in state.optimizer.param_groups:
            group["lr"] = rate * group["times"]
        with out_of_memory_as(RunError, f"out of memory in the optimizer's step. {ADAPTERS}"):
            state.optimizer.step()
        # Gradients are as large as the weights, and sampling and the next forward can do without them.
        state.optimizer.zero_grad(set_to_none=True)
        state.meter.updates += 1
        self._charge(minibatch)
        return logged

    def _accumulate(self, minibatch: Rollouts, groups: int) -> dict[str, Tensor]:
        """The gradient of a step, from none, in parts of so many prompts, or all at once where its forward was
        made `ahead`; returns what to log."""
        state, policy = self.state, self.state.policy
        state.optimizer.zero_grad(set_to_none=True)
        metrics: dict[str, Tensor] = {}
        # With its totals, which a GPU would be waited for whenever they are asked for.
        whole = replace(minibatch, step_totals=minibatch.totals)
        parts = whole.by_length()[0].micro_batches(groups) if self.ahead is None else [whole]
        with policy.for_backward(state.critic):
            for part in parts:
                found, self.ahead = self.ahead, None
                if found is None:
                    found = self._forward(part)
                    if state.meter.updates == 0:
                        check_ratio(policy, part, found.logps_PGT)
                loss, logged = state.algorithm.loss(found, part)
                check_loss(policy, part, found, loss, state.meter.updates, state.iteration)
                loss.backward()
                entropy = aggregate(found.entropy_PGT, part.loss_mask_PGT, "token_mean", part.totals)
                add_metrics(metrics, {"loss": loss.detach(), "entropy/train": entropy, **logged})
        return metrics

    def _charge(self, minibatch: Rollouts) -> None:
        state, tokens = self.state, minibatch.token_count
        state.meter.trained_tokens += int(minibatch.mask_PGT.sum())
        parameters = state.policy.size + (state.critic.trunk_size if state.critic is not None else 0)
        state.meter.charge(parameters, tokens, state.policy.backward_factor)


def idle(what: str) -> RunError:
    """The error of a run that does not learn, beginning with what it did instead."""
    return RunError(
        f"{what}: the reward tells no two responses to a prompt apart (or every one ends within its greedy prefix). "
        "Give a reward that does, or a larger --group-size."
    )


def learning_rate(algorithm: Algorithm, progress: float) -> float:
    """A function of the fraction of the run that is done: the number of updates is not known beforehand."""
    if progress < algorithm.warmup:
        return algorithm.learning_rate * min(max(progress, 1e-3) / algorithm.warmup, 1.0)
    rest = (progress - algorithm.warmup) / (1 - algorithm.warmup)
    shape = {"constant": 1.0, "linear": 1 - rest, "cosine": 0.5 * (1 + math.cos(math.pi * rest))}
    return algorithm.learning_rate * shape[algorithm.schedule]
