"""Expected gradients by enumeration in float64: every response of a small table, weighed by its probability."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from tiny import Table
from torch import Tensor

from algos import PPO, REINFORCE
from algos.engine.algorithm import Algorithm, Outputs, State
from algos.losses import kl_estimate

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
