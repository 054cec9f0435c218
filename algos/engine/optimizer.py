"""AdamW (Loshchilov & Hutter 2019) over what is trained of the policy and of the value function."""

from __future__ import annotations

from typing import Any

import torch

from algos.engine.algorithm import Algorithm
from algos.engine.critic import Critic
from algos.engine.errors import RunError
from algos.engine.memory import ADAPTERS, out_of_memory_as
from algos.engine.models.policy import Policy


def adamw(algorithm: Algorithm, policy: Policy, critic: Critic | None) -> torch.optim.AdamW:
    """Before the first step, its moments in place. A group's `times` says how many times the policy's learning rate its own is."""
    optimizer = torch.optim.AdamW(
        _groups(algorithm, policy, critic),
        lr=algorithm.learning_rate,
        betas=algorithm.adam_betas,
        eps=algorithm.adam_eps,
        weight_decay=algorithm.weight_decay,
        fused=policy.device.type in ("cpu", "cuda"),  # one pass over weights, gradients and moments
    )
    with out_of_memory_as(RunError, f"out of memory in the optimizer's state. {ADAPTERS}"):
        _make_moments(optimizer)
    return optimizer


def _groups(algorithm: Algorithm, policy: Policy, critic: Critic | None) -> list[dict[str, Any]]:
    """The policy's first."""
    groups: list[dict[str, Any]] = [{"params": list(policy.trainable().values()), "times": 1.0}]
    if critic is not None:
        rate = algorithm.needs.value_learning_rate
        times = 1.0 if rate is None else rate / algorithm.learning_rate
        groups.append({"params": [p for p in critic.parameters() if p.requires_grad], "times": times})
    return groups


def _make_moments(optimizer: torch.optim.Optimizer) -> None:
    """AdamW's state of every parameter, as its first step would make it. Made then it would lie where activations were,
    in pieces between which those of the next step no longer fit."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            optimizer.state[p] = {
                "step": torch.zeros((), device=p.device if group["fused"] else "cpu"),
                "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
            }
