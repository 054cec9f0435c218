"""The optimizer: its settings, rates and moments, and the gradients that it is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from tiny import tiny_policy
from tiny_runs import ALGORITHMS, run
from torch import Tensor

from algos import PPO, REINFORCE, Algorithm
from algos.engine.state import TrainState


def test_the_state_starts_with_what_the_algorithm_needs() -> None:
    policy = tiny_policy()
    assert TrainState.start(REINFORCE(), policy, 0).critic is None
    assert TrainState.start(PPO(), policy, 0).critic is not None
    optimizer = TrainState.start(PPO(adam_eps=1e-5, weight_decay=0.1), policy, 0).optimizer
    assert optimizer.param_groups[0]["eps"] == 1e-5
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_the_optimizer_steps_at_the_rate_that_is_logged() -> None:
    used: list[float] = []

    def hook(state: TrainState, _: float) -> None:
        used.append(state.optimizer.param_groups[0]["lr"])

    rows = run(REINFORCE(learning_rate=0.1, warmup=0.5), budget="4iterations", hook=hook).rows
    assert used[1:] == [row["learning_rate"] for row in rows]
    assert used[2:] == pytest.approx([0.05, 0.1, 0.05])


@pytest.mark.parametrize("kind", ["shared", "separate"])
@pytest.mark.parametrize("value_rate", [None, 3e-4, 5e-3])
def test_the_value_function_learns_at_a_rate_of_its_own(
    kind: Literal["shared", "separate"], value_rate: float | None
) -> None:
    """Adam's first step of a weight is as long as its rate, in the direction of its gradient, whatever that is."""
    moved: dict[str, float] = {}
    before: dict[str, Tensor] = {}

    def weights(state: TrainState) -> dict[str, Tensor]:
        assert state.critic is not None
        critic = {f"critic/{name}": p for name, p in state.critic.named_parameters()}
        return {name: p.detach().clone() for name, p in (state.policy.trainable() | critic).items()}

    def hook(state: TrainState, _: float) -> None:
        if not before:
            before.update(weights(state))
        else:
            moved.update({name: float((p - before[name]).abs().max()) for name, p in weights(state).items()})

    algorithm = PPO(
        learning_rate=1e-3, value_learning_rate=value_rate, value_model=kind, ppo_epochs=1, adam_eps=1e-30,
        schedule="constant",
    )  # fmt: skip
    run(algorithm, budget="1iterations", hook=hook)
    critics = [moved.pop(name) for name in list(moved) if name.startswith("critic/")]
    # At V = 0 only the head has a gradient; a trunk of its own behind it gets one with the next step.
    assert max(critics) == pytest.approx(value_rate or 1e-3, rel=1e-3)
    assert max(moved.values()) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_between_iterations_there_are_no_gradients(name: str) -> None:
    """They are as large as the weights, and sampling and scoring can do without them."""
    policy = tiny_policy()
    seen: list[bool] = []

    def hook(state: TrainState, _: float) -> None:
        seen.append(any(p.grad is not None for p in state.parameters))

    run(ALGORITHMS[name], policy, hook=hook)
    assert len(seen) > 2
    assert not any(seen)


@pytest.mark.parametrize("longest", [1e-3, 1e3])
def test_gradients_are_cut_to_the_norm_and_no_further(
    longest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def spied(self: torch.optim.AdamW, *arguments: Any) -> Any:
        weights = [p for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.cat([p.grad.flatten() for p in weights]).norm()))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spied)
    rows = run(replace(ALGORITHMS["reinforce"], max_grad_norm=longest), tiny_policy()).rows
    for norm, row in zip(norms, rows, strict=True):
        assert norm == pytest.approx(min(row["gradient_norm"], longest), rel=1e-3)


@pytest.mark.parametrize("algorithm", [REINFORCE(), PPO(value_model="separate")], ids=["REINFORCE", "PPO"])
def test_moments_are_those_that_the_first_step_would_make(algorithm: Algorithm) -> None:
    state = TrainState.start(algorithm, tiny_policy(), 0)
    group = state.optimizer.param_groups[0]
    copies = [torch.nn.Parameter(p.detach().clone()) for p in state.parameters]
    plain = torch.optim.AdamW(copies, fused=group["fused"])
    for p, copied in zip(state.parameters, copies, strict=True):
        p.grad = copied.grad = torch.zeros_like(p)
    before = {index: dict(slots) for index, slots in state.optimizer.state_dict()["state"].items()}
    plain.step()
    made = plain.state_dict()["state"]
    assert before.keys() == made.keys()
    for index, slots in made.items():
        assert before[index].keys() == slots.keys()
        for name, value in slots.items():
            found = before[index][name]
            assert (found.dtype, found.shape, found.device) == (value.dtype, value.shape, value.device)
            assert not found.any()
