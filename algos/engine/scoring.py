"""Log-probabilities and values of a batch without gradient, in parts that fit memory."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from algos.engine.algorithm import Outputs
from algos.engine.critic import Critic
from algos.engine.forward import forward, groups_per_forward, responses_per_forward
from algos.engine.memory import SHORTER
from algos.engine.models.policy import Policy
from algos.engine.rollouts import Rollouts, join_right


@torch.no_grad()
def score_policy(
    policy: Policy, rollouts: Rollouts, temperature: float, critic: Critic | None = None
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities and, with a critic, values [P, G, T] under the policy as it is now."""
    return _score(policy.model, policy, rollouts, temperature, critic)


@torch.no_grad()
def score_group(policy: Policy, rollouts: Rollouts, temperature: float) -> Tensor:
    """Log-probabilities [1, G, T] of the hundreds of responses to one prompt: those of `score_policy`, which keeps
    groups whole. Raises RunError where memory does not take even one."""

    def attempt(responses: int) -> Tensor:
        found = []
        for part_K in torch.arange(rollouts.G, device=policy.device).split(responses):
            part = rollouts.pick(part_K[None]).trimmed()
            found.append(forward(policy.model, part, temperature, policy.dtype).logps_PGT.transpose(0, 1))
        return join_right(found, width=rollouts.T).transpose(0, 1)

    size = responses_per_forward(policy.model, rollouts)
    return policy.portions.run("scoring of groups", size, attempt, SHORTER)


@torch.no_grad()
def score_reference(policy: Policy, rollouts: Rollouts, temperature: float) -> Tensor:
    """Log-probabilities [P, G, T] under the frozen reference."""
    with policy.reference() as model:
        return _score(model, policy, rollouts, temperature, None)[0]


def _score(
    model: nn.Module, policy: Policy, rollouts: Rollouts, temperature: float, critic: Critic | None
) -> tuple[Tensor, Tensor | None]:
    def attempt(groups: int) -> tuple[Tensor, Tensor | None]:
        # All at once they stay as they are, and are rounded as in a training forward of all of them.
        ordered, back_P = (rollouts, slice(None)) if groups >= rollouts.P else rollouts.by_length()
        logps: list[Tensor] = []
        values: list[Tensor] = []
        for part in ordered.micro_batches(groups):
            outputs = forward(model, part, temperature, policy.dtype, critic)
            logps.append(outputs.logps_PGT)
            if outputs.values_PGT is not None:
                values.append(outputs.values_PGT)
        logps_PGT, *values_PGT = (join_right(x, width=rollouts.T)[back_P] for x in (logps, values) if x)
        return logps_PGT, values_PGT[0] if values_PGT else None

    size = min(groups_per_forward(model, rollouts), rollouts.P)
    return policy.portions.run("scoring", size, attempt, SHORTER)


def with_reference(policy: Policy, rollouts: Rollouts, temperature: float) -> Rollouts:
    """With the reference's log-probabilities; recorded pairs have them already."""
    if rollouts.ref_logps_PGT is not None:
        return rollouts
    return replace(rollouts, ref_logps_PGT=score_reference(policy, rollouts, temperature))


def with_policy(
    policy: Policy,
    rollouts: Rollouts,
    temperature: float,
    critic: Critic | None,
    outputs: Outputs | None = None,
) -> Rollouts:
    """With the policy's log-probabilities and values before the update, from `outputs` where the training
    forward has been there already.

    They never come from the sampler, whose cached decoding rounds differently.
    """
    if outputs is None:
        logps_PGT, values_PGT = score_policy(policy, rollouts, temperature, critic)
    else:
        logps_PGT = outputs.logps_PGT.detach()
        values_PGT = None if outputs.values_PGT is None else outputs.values_PGT.detach()
    return replace(rollouts, logps_PGT=logps_PGT, values_PGT=values_PGT)
