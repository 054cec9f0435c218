"""`train()`: what it guarantees at its start and per step, whatever the micro-batch, and what ends a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
import torch
from tiny import gpt2, rollouts_of, same_weights, tiny_policy, word_tokenizer
from tiny_runs import ALGORITHMS, SAMPLING, first_batch, run, spy
from torch import Tensor

from algos import PPO, REINFORCE, GuardedReward, Policy, RewardCalls, RunError
from algos.engine.algorithm import Outputs, State
from algos.engine.checks import check_start
from algos.engine.loop import Loop
from algos.engine.monitor import explained_variance
from algos.engine.rewards import RewardError
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_policy, score_reference
from algos.engine.state import TrainState


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_the_result_does_not_depend_on_the_micro_batch(name: str, micro_batch: int) -> None:
    whole, parts = tiny_policy(double=True), tiny_policy(double=True)
    rows = run(ALGORITHMS[name], whole, micro_batch=100).rows
    split = run(ALGORITHMS[name], parts, micro_batch=micro_batch).rows
    for left, right in zip(rows, split, strict=True):
        assert left.keys() == right.keys()
        for key in left.keys() - {"seconds"}:
            assert left[key] == pytest.approx(right[key], rel=1e-6, abs=1e-9), key
    for p, q in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)


@dataclass(frozen=True)
class Choosing(REINFORCE):
    """Learns from some of a batch's groups, in an order of its own, as dynamic sampling does."""

    def prepare(self, rollouts: Rollouts, state: State) -> tuple[Rollouts, State]:
        prepared, state = super().prepare(rollouts, state)
        return prepared.select(torch.arange(prepared.P).flip(0)[: self.kept]), state

    kept: int = 2


@pytest.mark.parametrize("kept", [3, 2, 1])
def test_the_groups_that_prepare_chose_are_learned_from(kept: int) -> None:
    """The first update's forward is made before, of the batch as it was sampled: it must not stand in for theirs."""
    algorithm = Choosing(learning_rate=0.1, kept=kept)
    policies = [tiny_policy(double=True) for _ in range(2)]
    for policy, micro_batch in zip(policies, (100, 1), strict=True):
        rows = run(algorithm, policy, micro_batch=micro_batch).rows
        assert rows[-1]["updates"] == len(rows)
    for p, q in zip(*(policy.model.parameters() for policy in policies), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)
    assert not same_weights(policies[0], tiny_policy(double=True))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_same_seed_is_bit_identical_and_another_differs(name: str) -> None:
    policies = [tiny_policy() for _ in range(3)]
    rows = [
        run(ALGORITHMS[name], policy, seed=seed).rows
        for policy, seed in zip(policies, (3, 3, 4), strict=True)
    ]
    assert same_weights(policies[0], policies[1])
    assert not same_weights(policies[0], policies[2])
    assert [{**row, "seconds": 0} for row in rows[0]] == [{**row, "seconds": 0} for row in rows[1]]


def test_the_global_random_state_decides_nothing() -> None:
    first, second = tiny_policy(), tiny_policy()
    torch.manual_seed(1)
    run(ALGORITHMS["ppo-separate"], first)
    torch.manual_seed(2)
    torch.rand(7)
    run(ALGORITHMS["ppo-separate"], second)
    assert same_weights(first, second)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_reference_does_not_move(name: str) -> None:
    policy = tiny_policy()
    rollouts = rollouts_of([[1]], [[[1, 2, 0], [2, 2]]])
    before = score_reference(policy, rollouts, 1.0)
    run(ALGORITHMS[name], policy)
    assert torch.equal(score_reference(policy, rollouts, 1.0), before)
    assert float((score_policy(policy, rollouts, 1.0)[0] - before).abs().max()) > 1e-3


# Before the first update -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_ratio_one_and_no_kl_before_the_first_update_with_dropout_in_the_config(name: str) -> None:
    tokenizer = word_tokenizer("a b")
    policy = Policy(gpt2(len(tokenizer), dropout=0.5).train(), tokenizer, dtype="fp32")
    algorithm = replace(ALGORITHMS[name], learning_rate=1e-9)
    seen = spy(algorithm)
    row = run(seen, policy, budget="1iterations").rows[0]
    outputs, prepared = seen.calls[0]
    assert float((outputs.logps_PGT.detach() - prepared.ref_logps_PGT)[prepared.mask_PGT].abs().max()) < 1e-5
    if name == "dpo":
        assert row["loss"] == pytest.approx(0.693147, abs=1e-4)
        assert row["margin"] == pytest.approx(0, abs=1e-5)
        return
    assert float((outputs.logps_PGT.detach() - prepared.logps_PGT)[prepared.mask_PGT].abs().max()) < 1e-6
    assert row["kl/train"] == 0  # policy and reference run the same batch
    if name.startswith("ppo"):
        assert row["clip_fraction"] == 0
        assert row["ratio_max"] == pytest.approx(1, abs=1e-5)
        assert row["approx_kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["reinforce", "ppo", "dpo"])
def test_dropout_that_cannot_be_switched_off_ends_the_run_before_the_first_update(name: str) -> None:
    tokenizer = word_tokenizer("a b")
    policy = Policy(gpt2(len(tokenizer), dropout=0.5), tokenizer, dtype="fp32")
    policy.model.train().eval = lambda: policy.model
    before = {key: value.clone() for key, value in policy.model.state_dict().items()}
    with pytest.raises(RunError, match="differ before the first update") as caught:
        run(ALGORITHMS[name], policy)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in policy.model.state_dict().items())


def test_a_moved_policy_is_no_reference() -> None:
    policy = tiny_policy()
    with torch.no_grad():
        policy.model.lm_head.weight[1, 0] += 0.5
    with pytest.raises(RunError, match="differ before the first update"):
        run(REINFORCE(), policy)


def test_a_ratio_that_is_not_one_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def drifting(*arguments: Any) -> Any:
        logps, values = score_policy(*arguments)
        return logps + 1e-3, values

    monkeypatch.setattr("algos.engine.scoring.score_policy", drifting)
    monkeypatch.setattr(Loop, "_check_start", lambda *_: None)
    with pytest.raises(RunError, match="ratio to the sampling policy is not 1"):
        run(PPO(), micro_batch=1)  # in one piece, the two are the same forward


def test_in_bf16_policy_and_reference_are_equal_where_they_are_scored_alike() -> None:
    policy = tiny_policy()
    policy.dtype = torch.bfloat16
    scored: list[tuple[Tensor, Tensor]] = []

    class Seen(PPO):
        def prepare(self, rollouts: Rollouts, own: dict[str, Any]) -> Any:
            scored.append((score_policy(policy, rollouts, 1.0)[0], score_reference(policy, rollouts, 1.0)))
            return super().prepare(rollouts, own)

    run(Seen(), policy, budget="1iterations", micro_batch=1)
    assert torch.equal(*scored[0])


@pytest.mark.parametrize(
    ("dtype", "alike", "allowed"),
    [
        (torch.float32, False, 1e-4),
        (torch.float32, True, 1e-4),
        (torch.bfloat16, False, 2e-1),
        (torch.bfloat16, True, 5e-2),
    ],
)
def test_what_rounding_may_do_before_the_first_update(
    dtype: torch.dtype, alike: bool, allowed: float
) -> None:
    """Of a response of four tokens, twice what it may of one: rounding errors add up like a random walk."""
    policy = tiny_policy()
    policy.dtype = dtype
    ids = torch.ones(1, 1, 4, dtype=torch.long)
    rollouts = Rollouts(
        prompt_ids_PL=ids[0],
        prompt_mask_PL=torch.ones(1, 4, dtype=torch.bool),
        response_ids_PGT=ids,
        mask_PGT=torch.ones(1, 1, 4, dtype=torch.bool),
        ended_PG=torch.ones(1, 1, dtype=torch.bool),
        ref_logps_PGT=torch.zeros(1, 1, 4),
    )
    check_start(policy, rollouts, torch.full((1, 1, 4), 0.99 * allowed / 2), alike=alike)
    with pytest.raises(RunError, match="differ before the first update"):
        check_start(policy, rollouts, torch.full((1, 1, 4), 1.01 * allowed / 2), alike=alike)


# What ends a run --------------------------------------------------------------------------------------


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


def test_a_gradient_that_is_not_finite_stops_before_the_update() -> None:
    class Broken(REINFORCE):
        def loss(self, outputs: Outputs, prepared: Rollouts) -> Any:
            loss, metrics = super().loss(outputs, prepared)
            outputs.logps_PGT.register_hook(lambda gradient: gradient * torch.inf)
            return loss, metrics

    policy = tiny_policy()
    with pytest.raises(RunError, match="the gradient's norm is"):
        run(Broken(), policy)
    assert same_weights(policy, tiny_policy())


def test_a_reward_that_fails_ends_the_run() -> None:
    def broken(completions: list[str], **_: Any) -> list[float]:
        return [float("nan")] * len(completions)

    with pytest.raises(RewardError, match="the reward broken returned nan"):
        run(REINFORCE(), reward=broken)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_must_always_be_logged_is(name: str) -> None:
    row = run(ALGORITHMS[name], budget="1iterations").rows[0]
    always = {
        "loss",
        "learning_rate",
        "gradient_norm",
        "length/train",
        "eos_rate/train",
        "entropy/train",
        "flops",
        "seconds",
    }
    own = {
        "reinforce": {"reward/train", "kl/train", "sampler_gap_max", "advantage_std"},
        "value": {"explained_variance", "value_loss"},
        "ppo": {"clip_fraction", "approx_kl", "ratio_max", "explained_variance", "value_loss", "kl/train"},
        "dpo": {"chosen_logps", "rejected_logps", "margin", "accuracy"},
    }
    assert always | own[name.removesuffix("-separate")] <= row.keys()
    assert all(isinstance(value, (int, float)) for value in row.values())


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


def test_explained_variance_by_hand() -> None:
    returns = torch.tensor([1.0, 3.0, 5.0])
    assert float(explained_variance(returns, returns)) == 1
    assert float(explained_variance(returns + 7, returns)) == 1  # a constant error explains all the variance
    assert float(explained_variance(torch.full((3,), 3.0), returns)) == 0
    assert float(explained_variance(torch.tensor([5.0, 3.0, 1.0]), returns)) == pytest.approx(-3)


def test_where_returns_do_not_vary_no_variance_is_explained() -> None:
    """Nor where they do by rounding alone, by which a quotient would be millions."""
    values = torch.tensor([0.1, 0.2, 0.3])
    for returns in (torch.ones(3), torch.zeros(3), torch.tensor([1.0, 1.0 + 1e-7, 1.0 - 1e-7])):
        assert math.isnan(explained_variance(values, returns))
    assert float(explained_variance(values, torch.tensor([1.0, 1.001, 1.002]))) == pytest.approx(
        -9800, rel=1e-2
    )


@pytest.mark.parametrize("name", ["ppo", "value"])
def test_explained_variance_is_of_tokens_that_carry_loss(name: str) -> None:
    """Of a greedy prefix no value is learned."""
    sampling = replace(SAMPLING, greedy_prefix=2)
    prepared, row = first_batch(ALGORITHMS[name], sampling=sampling)
    mask = prepared.loss_mask_PGT
    assert not torch.equal(mask, prepared.learnable_PGT)
    values, returns = (x[mask] for x in prepared.filled("values_PGT", "returns_PGT"))
    assert row["explained_variance"] == pytest.approx(float(explained_variance(values, returns)), nan_ok=True)


def test_a_minibatch_without_a_loss_is_no_step() -> None:
    """Of four prompts one is scored: four minibatches make one step, and the log is that step's."""

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float | None]:
        return [
            float(len(text)) if prompt == "a b" else None
            for prompt, text in zip(prompts, completions, strict=True)
        ]

    careful = GuardedReward(reward, RewardCalls(allow_unscored=True))
    prompts = ["a", "b a b", "a b", "b"]
    options: dict[str, Any] = {"prompts": prompts, "reward": careful, "budget": "1iterations"}
    whole, parts = (
        run(
            PPO(learning_rate=1e-2, ppo_epochs=1, minibatches=count), tiny_policy(double=True), **options
        ).rows[0]
        for count in (1, 4)
    )
    assert parts["updates"] == whole["updates"] == 1
    for name in ("value_loss", "entropy/train", "policy_loss", "gradient_norm"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-9)
