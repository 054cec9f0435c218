"""The forward pass against a plain transformers forward: padding, positions, causality, temperature."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import rollouts_of, tiny_policy
from torch import Tensor

from algos import PPO, REINFORCE
from algos.engine.critic import Critic
from algos.engine.forward import forward
from algos.engine.models.policy import Policy
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_policy, score_reference

PROMPTS = [[1], [2, 1, 2, 2], [2, 2]]
RESPONSES = [[[1, 2, 0], [2, 2, 2]], [[0], [1, 0]], [[2, 1, 1], [2, 0]]]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def policy(request: pytest.FixtureRequest) -> Policy:
    return tiny_policy(request.param, double=True)


def batch() -> Rollouts:
    return rollouts_of(PROMPTS, RESPONSES)


def plain_logps(
    model: torch.nn.Module, prompt: list[int], response: list[int], temperature: float = 1.0
) -> Tensor:
    """One unpadded row, no mask, no positions: transformers as anyone would call it."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0] / temperature
    logps = logits.log_softmax(-1)
    return torch.stack([logps[len(prompt) - 1 + t, token] for t, token in enumerate(response)])


def padded(rollouts: Rollouts, left: int, right: int, id_: int = 2) -> Rollouts:
    """The same rollouts with more padding on both sides, filled with a real word's id."""

    def pad(x: Tensor, amount: tuple[int, int], value: float) -> Tensor:
        return torch.nn.functional.pad(x, amount, value=value)

    return dataclasses.replace(
        rollouts,
        prompt_ids_PL=pad(rollouts.prompt_ids_PL, (left, 0), id_),
        prompt_mask_PL=pad(rollouts.prompt_mask_PL, (left, 0), False),
        response_ids_PGT=pad(rollouts.response_ids_PGT, (0, right), id_),
        mask_PGT=pad(rollouts.mask_PGT, (0, right), False),
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 0), (0, 2), (4, 4)])
def test_logps_are_those_of_a_plain_unpadded_forward(
    policy: Policy, left: int, right: int, temperature: float
) -> None:
    logps, _ = score_policy(policy, padded(batch(), left, right), temperature)
    for p, prompt in enumerate(PROMPTS):
        for g, response in enumerate(RESPONSES[p]):
            torch.testing.assert_close(
                logps[p, g, : len(response)], plain_logps(policy.model, prompt, response, temperature)
            )


def test_temperature_divides_policy_and_reference_alike(policy: Policy) -> None:
    for temperature in (0.5, 1.0, 2.0):
        logps, _ = score_policy(policy, batch(), temperature)
        torch.testing.assert_close(logps, score_reference(policy, batch(), temperature))
    hot, cold = (score_policy(policy, batch(), t)[0][batch().mask_PGT] for t in (2.0, 0.5))
    assert float((hot - cold).abs().max()) > 0.5


def test_entropy_is_that_of_the_next_token_distribution(policy: Policy) -> None:
    outputs = forward(policy.model, batch(), 1.0, policy.dtype)
    with torch.no_grad():
        logits = policy.model(torch.tensor([PROMPTS[0]])).logits[0, -1]
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(outputs.entropy_PGT[0, 0, 0], expected)
    assert not outputs.entropy_PGT.requires_grad


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_a_token_changes_nothing_before_it(policy: Policy, kind: str) -> None:
    """Token t moves log-probabilities from t on, and values only after t: V_t is read where t is predicted."""
    critic = Critic(policy.model, kind)
    torch.nn.init.normal_(critic.head.weight)
    before = rollouts_of([[1, 2]], [[[1, 2, 2, 1]]])
    after = rollouts_of([[1, 2]], [[[1, 2, 1, 1]]])
    (logps, values), (other_logps, other_values) = (
        score_policy(policy, r, 1.0, critic) for r in (before, after)
    )
    assert values is not None
    assert other_values is not None
    torch.testing.assert_close(logps[..., :2], other_logps[..., :2])
    torch.testing.assert_close(values[..., :3], other_values[..., :3])
    assert float((logps - other_logps)[..., 2:].abs().min()) > 1e-6
    assert float((values - other_values)[..., 3:].abs().min()) > 1e-6


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_values_do_not_depend_on_padding_and_are_zero_at_first(policy: Policy, kind: str) -> None:
    critic = Critic(policy.model, kind)
    _, values = score_policy(policy, batch(), 1.0, critic)
    assert values is not None
    assert float(values.abs().max()) == 0
    torch.nn.init.normal_(critic.head.weight)
    mask = batch().mask_PGT
    _, values = score_policy(policy, batch(), 1.0, critic)
    _, wide = score_policy(policy, padded(batch(), 3, 2), 1.0, critic)
    torch.testing.assert_close(values[mask], wide[..., : batch().T][mask])
    assert float(values[mask].std()) > 0.01


def test_a_separate_critic_leaves_the_policy_alone(policy: Policy) -> None:
    critic = Critic(policy.model, "separate")
    torch.nn.init.normal_(critic.head.weight)
    policy.model.zero_grad()
    outputs = forward(policy.model, batch(), 1.0, policy.dtype, critic)
    outputs.values_PGT.sum().backward()
    assert all(p.grad is None or not bool(p.grad.any()) for p in policy.model.parameters())
    assert all(p.grad is not None for p in critic.head.parameters())
    shared = Critic(policy.model, "shared")
    torch.nn.init.normal_(shared.head.weight)
    forward(policy.model, batch(), 1.0, policy.dtype, shared).values_PGT.sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in policy.model.parameters())
    policy.model.zero_grad()


def loss_gradient(policy: Policy, rollouts: Rollouts) -> Tensor:
    algorithm = REINFORCE(baseline="none", aggregation="token_mean")
    rollouts = dataclasses.replace(rollouts, returns_PGT=rollouts.advantages_PGT)
    outputs = forward(policy.model, rollouts, 1.0, policy.dtype)
    loss, _ = algorithm.loss(outputs, rollouts)
    gradients = torch.autograd.grad(loss, list(policy.model.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in gradients if g is not None])


def test_prompt_and_padding_tokens_get_no_loss(policy: Policy) -> None:
    """Whatever stands on the padding, the gradient is the same, and it is that of the response's tokens alone."""
    rollouts = batch()
    rollouts = dataclasses.replace(
        rollouts, advantages_PGT=torch.ones(rollouts.mask_PGT.shape, dtype=torch.float64)
    )
    gradient = loss_gradient(policy, rollouts)
    noisy = dataclasses.replace(
        rollouts,
        prompt_ids_PL=torch.where(rollouts.prompt_mask_PL, rollouts.prompt_ids_PL, 1),
        response_ids_PGT=torch.where(rollouts.mask_PGT, rollouts.response_ids_PGT, 1),
        advantages_PGT=torch.where(rollouts.mask_PGT, 1.0, 100.0).double(),
    )
    torch.testing.assert_close(gradient, loss_gradient(policy, noisy))
    total = torch.zeros((), dtype=torch.float64)
    for p, prompt in enumerate(PROMPTS):
        for response in RESPONSES[p]:
            logps = policy.model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
            total = total - sum(logps[len(prompt) - 1 + t, token] for t, token in enumerate(response))
    total = total / sum(len(r) for group in RESPONSES for r in group)
    plain = torch.autograd.grad(total, list(policy.model.parameters()), allow_unused=True)
    torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in plain if g is not None]))


@pytest.mark.parametrize("algorithm", [REINFORCE(baseline="none"), PPO()])
def test_a_response_that_is_all_prefix_gives_a_finite_loss_of_zero(
    policy: Policy, algorithm: REINFORCE | PPO
) -> None:
    rollouts = rollouts_of([[1]], [[[1, 2, 0]]])
    noughts = torch.zeros(1, 1, 3, dtype=torch.float64)
    rollouts = dataclasses.replace(
        rollouts, fixed_PGT=rollouts.mask_PGT, scores_PG=torch.ones(1, 1, dtype=torch.float64),
        logps_PGT=noughts - 1, ref_logps_PGT=noughts - 2, values_PGT=noughts,
    )  # fmt: skip
    prepared, _ = algorithm.prepare(rollouts, algorithm.init_state())
    critic = Critic(policy.model, "shared")
    loss, metrics = algorithm.loss(forward(policy.model, prepared, 1.0, policy.dtype, critic), prepared)
    assert float(loss.detach()) == 0
    assert all(bool(torch.isfinite(value)) for value in metrics.values())
