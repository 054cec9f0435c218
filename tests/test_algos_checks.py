"""What must hold before an update, and what is said of step and sample where it does not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny import rollouts_of, same_weights, tiny_policy
from tiny_runs import ALGORITHMS, run

from algos import PPO, REINFORCE, Policy, RunError
from algos.engine import forward
from algos.engine.algorithm import Outputs
from algos.engine.checks import check_batch, check_reference, check_responses
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_policy

PROMPTS, RESPONSES = [[1], [2, 1]], [[[1, 0], [2, 2, 0]], [[2, 0], [1, 1, 1]]]


def batch(**fields: Any) -> Rollouts:
    rollouts = rollouts_of(PROMPTS, RESPONSES)
    return rollouts.__class__(**{**vars(rollouts), **fields})


@pytest.mark.parametrize(
    ("field", "word"),
    [
        ("sampler_logps_PGT", "the sampler's log-probability"),
        ("logps_PGT", "the policy's log-probability"),
        ("ref_logps_PGT", "the reference's log-probability"),
        ("values_PGT", "the value"),
        ("advantages_PGT", "the advantage"),
        ("returns_PGT", "the return"),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_with_its_sample(field: str, word: str, value: float) -> None:
    x_PGT = torch.zeros(2, 2, 3)
    x_PGT[1, 0, 2] = value  # padding: nobody reads it
    check_batch(tiny_policy(), batch(**{field: x_PGT}), 4)
    x_PGT[1, 1, 2] = value
    with pytest.raises(RunError) as caught:
        check_batch(tiny_policy(), batch(**{field: x_PGT}), 4)
    message = str(caught.value)
    assert message.startswith(
        f"{word} is not finite in iteration 5: response 1 to the prompt 'b a', 'a a a'."
    )
    assert "\n" not in message


def test_what_was_left_unscored_is_not_looked_at() -> None:
    learnable_PG = torch.tensor([[True, True], [True, False]])
    x_PGT = torch.zeros(2, 2, 3)
    x_PGT[1, 1] = math.nan
    check_batch(tiny_policy(), batch(advantages_PGT=x_PGT, learnable_PG=learnable_PG), 0)


def test_a_response_without_a_token_is_named() -> None:
    mask_PGT = batch().mask_PGT.clone()
    check_responses(tiny_policy(), batch(), 0)
    mask_PGT[0, 1] = False
    with pytest.raises(RunError, match="in iteration 1: response 1 to the prompt 'a'"):
        check_responses(tiny_policy(), batch(mask_PGT=mask_PGT), 0)


def test_the_reference_is_what_it_was() -> None:
    policy = tiny_policy()
    before = policy.reference_digest()
    check_reference(policy, before)
    with policy.reference() as reference, torch.no_grad():
        next(reference.parameters())[0, 0] += 1e-6
    with pytest.raises(RunError, match="the reference changed during training"):
        check_reference(policy, before)


# In training ---------------------------------------------------------------------------------------------


def broken_later(policy: Policy, after: float) -> list[int]:
    """From the so-manieth pass through the policy's layers on, what they give is not a number. Counts the passes."""
    calls = [0]

    def hook(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return output * math.nan if calls[0] > after else output

    policy.model.transformer.ln_f.register_forward_hook(hook)
    return calls


@pytest.mark.parametrize("name", ["reinforce", "ppo", "dpo"])
def test_a_model_that_turns_to_nan_ends_the_run_before_an_update(name: str) -> None:
    """In whatever forward they do."""
    whole = tiny_policy()
    forwards = broken_later(whole, math.inf)
    run(ALGORITHMS[name], whole)
    assert forwards[0] > 5
    for after in range(forwards[0]):
        policy = tiny_policy()
        broken_later(policy, after)
        with pytest.raises(
            RunError, match=r"iteration|before the first update|at the first update"
        ) as caught:
            run(ALGORITHMS[name], policy)
        assert "\n" not in str(caught.value)
        assert all(bool(p.isfinite().all()) for p in policy.model.parameters())


def test_an_infinite_log_probability_is_not_hidden_by_the_clamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ratio is clamped to e^±20, so the loss stays finite where a token has become impossible."""

    class Impossible(PPO):
        def loss(self, outputs: Outputs, prepared: Rollouts) -> Any:
            loss, metrics = super().loss(outputs, prepared)
            assert bool(torch.isfinite(loss))
            return loss, metrics

    calls, right = [0], forward.selected_logps

    def impossible(*arguments: Any) -> Any:
        logps_N, entropy_N = right(*arguments)
        calls[0] += 1
        return (logps_N if calls[0] < 4 else logps_N.index_fill(0, torch.tensor([0]), -torch.inf)), entropy_N

    # The reference's, the first training forward and the check of both are as they were; the second update's is not.
    monkeypatch.setattr(forward, "selected_logps", impossible)
    with pytest.raises(RunError, match=r"log-probability is not finite at update 2 \(iteration 1\)"):
        run(Impossible(ppo_epochs=3), tiny_policy())


@pytest.mark.parametrize("micro_batch", [1, None])
def test_a_loss_that_is_not_finite_stops_before_the_update(micro_batch: int | None) -> None:
    class Broken(REINFORCE):
        def loss(self, outputs: Outputs, prepared: Rollouts) -> Any:
            loss, metrics = super().loss(outputs, prepared)
            return loss * torch.nan, metrics

    policy = tiny_policy()
    with pytest.raises(RunError, match=r"the loss is nan at update 1 .*learning.rate") as caught:
        run(Broken(), policy, micro_batch=micro_batch)
    assert "\n" not in str(caught.value)
    assert same_weights(policy, tiny_policy())


def test_the_gradient_is_named_by_its_parameter() -> None:
    class Broken(REINFORCE):
        def loss(self, outputs: Outputs, prepared: Rollouts) -> Any:
            loss, metrics = super().loss(outputs, prepared)
            outputs.logps_PGT.register_hook(lambda gradient: gradient * torch.inf)
            return loss, metrics

    policy = tiny_policy()
    with pytest.raises(
        RunError,
        match=r"the gradient's norm is nan \(first in transformer\.wte\.weight\) at update 1 \(iteration 1\)",
    ):
        run(Broken(), policy)
    assert same_weights(policy, tiny_policy())


def test_a_reference_that_moves_ends_the_run() -> None:
    policy = tiny_policy()

    def hook(state: Any, progress: float) -> None:
        if progress >= 1:
            with policy.reference() as reference, torch.no_grad():
                reference.lm_head.weight[0, 0] += 1

    with pytest.raises(RunError, match="the reference changed"):
        run(ALGORITHMS["reinforce"], policy, hook=hook)
    assert bool(score_policy(policy, batch(), 1.0)[0].isfinite().all())
