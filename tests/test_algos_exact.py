"""Expected gradients by enumeration in float64: every response of a small table, weighed by its probability."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import Table
from torch import Tensor

from algos import PPO, REINFORCE
from algos.engine.algorithm import Algorithm, Outputs, State
from algos.losses import aggregate, kl_estimate

BETA = 0.3


@pytest.fixture(scope="module")
def table() -> Table:
    return Table()


@pytest.fixture(scope="module")
def small() -> Table:
    return Table(vocabulary=3, length=2, seed=1)


def outputs(table: Table, index: list[list[int]], values: bool = False) -> Outputs:
    logps_PGT = table.logps(table.logits)[torch.tensor(index)]
    return Outputs(
        logps_PGT, torch.zeros_like(logps_PGT), table.values[torch.tensor(index)] if values else None
    )


def expected_ascent(table: Table, algorithm: Algorithm, size: int = 1, state: State | None = None) -> Tensor:
    """−E[∇loss] over all batches of `size` responses to one prompt: exact, no sampling."""
    state = algorithm.init_state() if state is None else state
    total = torch.zeros((), dtype=torch.float64)
    for batch in itertools.product(range(len(table.responses)), repeat=size):
        prepared, _ = algorithm.prepare(table.rollouts([list(batch)]), state)
        loss, _ = algorithm.loss(outputs(table, [list(batch)], bool(algorithm.needs.values)), prepared)
        total = total + table.probabilities[list(batch)].prod() * loss
    return -torch.autograd.grad(total, table.logits)[0]


def test_the_table_is_a_distribution(table: Table) -> None:
    assert len(table.responses) == 1 + 2 + 4 + 8
    assert float(table.probabilities.sum()) == pytest.approx(1)


@pytest.mark.parametrize("reward_to_go", [False, True])
@pytest.mark.parametrize("baseline", ["none", "greedy", "value"])
def test_reinforce_follows_the_exact_gradient(table: Table, baseline: str, reward_to_go: bool) -> None:
    algorithm = REINFORCE(beta=BETA, baseline=baseline, reward_to_go=reward_to_go)
    torch.testing.assert_close(expected_ascent(table, algorithm), table.objective_gradient(BETA))


@pytest.mark.parametrize("reward_to_go", [False, True])
def test_ema_baseline_follows_the_exact_gradient_whatever_it_holds(table: Table, reward_to_go: bool) -> None:
    algorithm = REINFORCE(beta=BETA, baseline="ema", reward_to_go=reward_to_go)
    for held in (0.0, 1.7):
        state = {"ema": torch.tensor(held), "ema_weight": torch.tensor(0.4)}
        torch.testing.assert_close(
            expected_ascent(table, algorithm, state=state), table.objective_gradient(BETA)
        )


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("reward_to_go", [False, True])
def test_leave_one_out_follows_the_exact_gradient(small: Table, size: int, reward_to_go: bool) -> None:
    algorithm = REINFORCE(beta=BETA, baseline="leave_one_out", reward_to_go=reward_to_go)
    torch.testing.assert_close(expected_ascent(small, algorithm, size), small.objective_gradient(BETA))


@pytest.mark.parametrize("size", [2, 3])
def test_batch_mean_shrinks_the_gradient(small: Table, size: int) -> None:
    ascent = expected_ascent(small, REINFORCE(beta=BETA, baseline="batch_mean"), size)
    torch.testing.assert_close(ascent, (size - 1) / size * small.objective_gradient(BETA))


def test_constant_aggregation_is_the_exact_gradient_over_the_longest_response(table: Table) -> None:
    algorithm = REINFORCE(beta=BETA, baseline="none", aggregation="constant")
    ascent = expected_ascent(table, algorithm)
    torch.testing.assert_close(ascent, table.objective_gradient(BETA) / table.length)


def test_sequence_mean_is_biased(table: Table) -> None:
    ascent = expected_ascent(table, REINFORCE(beta=BETA, baseline="none", aggregation="sequence_mean"))
    exact = table.objective_gradient(BETA)
    assert float(torch.cosine_similarity(ascent.flatten(), exact.flatten(), dim=0)) < 0.999


def test_ppo_without_value_function_starts_along_the_exact_gradient(table: Table) -> None:
    """λ = γ = 1 and V = 0: the advantage is the reward to go, and at ρ = 1 the surrogate's gradient REINFORCE's."""
    algorithm = PPO(beta=BETA, gae_lambda=1.0, whiten_advantages=False, aggregation="sequence_sum")
    torch.testing.assert_close(expected_ascent(table, algorithm), table.objective_gradient(BETA))


@pytest.mark.parametrize("aggregation", ["sequence_sum", "token_mean", "sequence_mean", "constant"])
def test_ppo_at_ratio_one_has_reinforces_gradient(table: Table, aggregation: str) -> None:
    index = [[0, 5, 9, 14], [3, 3, 12, 1]]
    advantages = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rollouts = replace(table.rollouts(index), advantages_PGT=advantages, returns_PGT=advantages)
    gradients = []
    for algorithm in (
        REINFORCE(baseline="none", aggregation=aggregation),
        PPO(aggregation=aggregation, value_coefficient=0.0),
    ):
        loss, _ = algorithm.loss(outputs(table, index, values=True), rollouts)
        gradients.append(torch.autograd.grad(loss, table.logits)[0])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert float(gradients[0].abs().max()) > 0.01


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_range": 0.1, "clip_range_high": 0.4, "aggregation": "constant"},
        {"dual_clip": 1.5, "value_clip_range": None, "aggregation": "sequence_mean"},
        {"value_clip_range": 0.05, "value_coefficient": 2.0, "aggregation": "sequence_sum"},
    ],
)
def test_ppos_loss_is_made_of_its_parts_with_its_own_settings(table: Table, options: dict[str, Any]) -> None:
    """After some updates: ratios far from 1 and values that have moved."""
    algorithm = PPO(**options)
    index = [[0, 5, 9, 14], [3, 3, 12, 1]]
    prepared, _ = algorithm.prepare(table.rollouts(index), {})
    now = outputs(table, index, values=True)
    random = torch.Generator().manual_seed(1)
    logps = now.logps_PGT + 0.5 * torch.randn(now.logps_PGT.shape, generator=random, dtype=torch.float64)
    values = now.values_PGT + 0.5 * torch.randn(logps.shape, generator=random, dtype=torch.float64)
    loss, metrics = algorithm.loss(Outputs(logps, now.entropy_PGT, values), prepared)
    old, A, R, mask = prepared.logps_PGT, prepared.advantages_PGT, prepared.returns_PGT, prepared.mask_PGT
    ratio = (logps - old).exp()
    low, high = 1 - algorithm.clip_range, 1 + (algorithm.clip_range_high or algorithm.clip_range)
    token = -torch.minimum(A * ratio, A * ratio.clamp(low, high))
    if algorithm.dual_clip:
        token = torch.where(A < 0, torch.minimum(token, -algorithm.dual_clip * A), token)
    error = (values - R) ** 2
    if algorithm.value_clip_range:
        near = prepared.values_PGT + (values - prepared.values_PGT).clamp(
            -algorithm.value_clip_range, algorithm.value_clip_range
        )
        error = torch.maximum(error, (near - R) ** 2)
    fit = 0.5 * error[mask].mean()
    expected = aggregate(token, mask, algorithm.aggregation) + algorithm.value_coefficient * fit
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["value_loss"], fit.detach())
    outside = ((ratio < low) | (ratio > high))[mask]
    assert 0 < float(metrics["clip_fraction"]) < 1
    assert float(metrics["clip_fraction"]) == pytest.approx(float(outside.double().mean()))
    assert float(metrics["ratio_max"]) == pytest.approx(float(ratio[mask].max().detach()))
    k3 = (ratio - 1 - ratio.log())[mask].mean()
    assert float(metrics["approx_kl"]) == pytest.approx(float(k3.detach()))


def test_a_learned_baseline_is_fitted_to_the_reward_to_go(table: Table) -> None:
    index = [[0, 5, 9, 14], [3, 3, 12, 1]]
    algorithm = REINFORCE(beta=BETA, baseline="value", value_coefficient=0.7)
    prepared, _ = algorithm.prepare(table.rollouts(index), {})
    now = outputs(table, index, values=True)
    values = now.values_PGT.clone().requires_grad_()
    loss, _ = algorithm.loss(Outputs(now.logps_PGT, now.entropy_PGT, values), prepared)
    mask = prepared.mask_PGT
    delta = torch.where(mask, prepared.logps_PGT - prepared.ref_logps_PGT, 0.0)
    to_go = prepared.scores_PG[..., None] - BETA * delta.flip(-1).cumsum(-1).flip(-1)
    expected = 0.7 * torch.where(mask, values.detach() - to_go, 0.0) / mask.sum()
    torch.testing.assert_close(torch.autograd.grad(loss, values)[0], expected)


# What a KL term really optimises -------------------------------------------------------------------


def kl_terms(table: Table) -> tuple[Tensor, Tensor, Tensor]:
    """(token log-probs with gradient, of the reference, probability of each response)."""
    return table.logps(table.logits), table.logps(table.ref_logits), table.probabilities


def exact_kl_gradient(table: Table) -> Tensor:
    logp, ref = table.logps(table.logits).sum(-1), table.logps(table.ref_logits).sum(-1)
    return torch.autograd.grad((logp.exp() * (logp - ref)).sum(), table.logits)[0]


def visited_state_gradient(table: Table, forward_kl: bool) -> Tensor:
    """E over visited states (no gradient through the visits) of the gradient of the KL of next tokens."""
    logp, ref = table.logits.log_softmax(-1), table.ref_logits.log_softmax(-1)
    per_state = ((ref.exp() * (ref - logp)) if forward_kl else (logp.exp() * (logp - ref))).sum(-1)
    visits = torch.where(table.mask, table.probabilities[:, None], 0.0)
    return torch.autograd.grad((visits * per_state[table.states]).sum(), table.logits)[0]


def as_reward(table: Table, estimator: str) -> Tensor:
    """The expected policy gradient of a detached estimate, summed over the response."""
    logps, ref, p = kl_terms(table)
    cost = torch.where(table.mask, kl_estimate(logps, ref, estimator), 0.0).sum(-1).detach()
    return torch.autograd.grad((p * cost * logps.sum(-1)).sum(), table.logits)[0]


def as_loss(table: Table, estimator: str, whole_response: bool = False) -> Tensor:
    """The expected gradient of the estimate differentiated directly."""
    logps, ref, p = kl_terms(table)
    if whole_response:
        return torch.autograd.grad(
            (p * kl_estimate(logps.sum(-1), ref.sum(-1), estimator)).sum(), table.logits
        )[0]
    cost = torch.where(table.mask, kl_estimate(logps, ref, estimator), 0.0).sum(-1)
    return torch.autograd.grad((p * cost).sum(), table.logits)[0]


@pytest.mark.parametrize("seed", range(3))
def test_k1_and_k3_are_unbiased_in_value_and_k2_is_not(seed: int) -> None:
    table = Table(seed=seed)
    logps, ref, p = kl_terms(table)
    kl = float((p * (logps - ref).sum(-1)).sum().detach())
    value = {
        name: float((p * torch.where(table.mask, kl_estimate(logps, ref, name), 0.0).sum(-1)).sum().detach())
        for name in ("k1", "k2", "k3")
    }
    assert value["k1"] == pytest.approx(kl)
    assert value["k3"] == pytest.approx(kl)
    assert abs(value["k2"] - kl) > 0.02


def test_k1_as_a_reward_is_the_exact_kl_gradient(table: Table) -> None:
    torch.testing.assert_close(as_reward(table, "k1"), exact_kl_gradient(table))


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_k2_and_k3_as_rewards_are_biased(table: Table, estimator: str) -> None:
    assert float((as_reward(table, estimator) - exact_kl_gradient(table)).abs().max()) > 0.02


def test_k1_as_a_loss_has_no_gradient(table: Table) -> None:
    torch.testing.assert_close(as_loss(table, "k1"), torch.zeros_like(table.logits))


def test_k3_as_a_loss_is_the_forward_kl(table: Table) -> None:
    torch.testing.assert_close(as_loss(table, "k3"), visited_state_gradient(table, forward_kl=True))
    logp, ref = table.logps(table.logits).sum(-1), table.logps(table.ref_logits).sum(-1)
    forward = torch.autograd.grad((ref.exp() * (ref - logp)).sum(), table.logits)[0]
    torch.testing.assert_close(as_loss(table, "k3", whole_response=True), forward)


def test_k2_of_the_whole_response_as_a_loss_is_exact(table: Table) -> None:
    torch.testing.assert_close(as_loss(table, "k2", whole_response=True), exact_kl_gradient(table))


def test_k2_a_token_and_full_vocabulary_kl_as_losses_miss_how_early_tokens_change_later_ones(
    table: Table,
) -> None:
    partial = as_loss(table, "k2")
    torch.testing.assert_close(partial, visited_state_gradient(table, forward_kl=False))
    assert float((partial - exact_kl_gradient(table)).abs().max()) > 0.02
    one_step = Table(vocabulary=4, length=1)
    torch.testing.assert_close(as_loss(one_step, "k2"), exact_kl_gradient(one_step))
