"""One iteration of `train()`: which prompts, scores, penalties, prefixes and temperatures reach the loss."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import EOS, gpt2, same_weights, tiny_policy, word_tokenizer
from tiny_runs import ALGORITHMS, PROMPTS, SAMPLING, count_b, first_batch, run, spy

from algos import DPO, PPO, REINFORCE, Algorithm, Policy, RunError, Sampling
from algos.engine.algorithm import Outputs
from algos.engine.loop import Loop
from algos.engine.scoring import score_policy
from algos.engine.state import TrainState


def test_missing_eos_costs_once_for_every_arm_alike() -> None:
    constant = lambda completions, **_: [1.0] * len(completions)  # noqa: E731
    sampling = replace(SAMPLING, missing_eos_penalty=0.25)
    for algorithm in (REINFORCE(), PPO(), PPO(minibatches=2), DPO()):
        rollouts, _ = first_batch(
            algorithm, prompts=PROMPTS, pairs=None, reward=constant, sampling=sampling, micro_batch=100
        )
        expected = torch.where(rollouts.ended_PG, 1.0, 0.75)
        torch.testing.assert_close(rollouts.scores_PG, expected)
        assert 0 < int(rollouts.ended_PG.sum()) < rollouts.ended_PG.numel()


def test_the_greedy_baseline_is_the_penalised_score_of_the_greedy_response() -> None:
    sampling = replace(SAMPLING, missing_eos_penalty=0.25)
    algorithm = REINFORCE(baseline="greedy", beta=0.0)
    policy = tiny_policy(seed=4)  # two of its greedy answers end, two do not
    rollouts, _ = first_batch(algorithm, policy=policy, sampling=sampling, micro_batch=100)
    assert rollouts.greedy_scores_P is not None
    unended, policy = 0, tiny_policy(seed=4)
    for p in range(rollouts.P):
        ids = rollouts.prompt_ids_PL[p][rollouts.prompt_mask_PL[p]].tolist()
        answer: list[int] = []
        while len(answer) < 5 and EOS not in answer:
            with torch.no_grad():
                answer.append(int(policy.model(torch.tensor([ids + answer])).logits[0, -1].argmax()))
        unended += answer[-1] != EOS
        score = answer.count(2) / 5 - (0.25 if answer[-1] != EOS else 0)
        assert float(rollouts.greedy_scores_P[p]) == pytest.approx(score)
        expected = rollouts.scores_PG[p] - score
        torch.testing.assert_close(rollouts.advantages_PGT[p, :, 0], expected)
    assert unended == 2


def test_dpo_learns_from_sampled_groups_best_against_worst() -> None:
    rollouts, row = first_batch(DPO(), prompts=PROMPTS, pairs=None, reward=count_b, micro_batch=100)
    assert rollouts.G == 2
    assert bool((rollouts.scores_PG[:, 0] > rollouts.scores_PG[:, 1]).all())
    assert row["reward/train"] >= 0


def test_groups_without_an_order_give_no_update() -> None:
    policy, seen = tiny_policy(), []

    def first_two(prompts: list[str], **_: Any) -> list[float]:
        """Of four iterations those two in which every response gets the same."""
        seen.append(0)
        return [0.0 if len(seen) < 3 else float(i) for i in range(len(prompts))]

    def hook(state: TrainState, _: float) -> None:
        if state.iteration in (1, 2):
            assert same_weights(policy, tiny_policy())

    rows = run(
        DPO(learning_rate=0.1),
        policy,
        "4iterations",
        prompts=PROMPTS,
        pairs=None,
        reward=first_two,
        hook=hook,
    ).rows
    assert [row["updates"] for row in rows] == [0, 0, 1, 2]
    assert not same_weights(policy, tiny_policy())


def test_a_run_whose_budget_ends_before_its_first_update_is_an_error() -> None:
    policy = tiny_policy()
    constant = lambda completions, **_: [1.0] * len(completions)  # noqa: E731
    options: dict[str, Any] = {"prompts": PROMPTS, "pairs": None, "reward": constant}
    with pytest.raises(
        RunError, match="the run ended before its first update: the reward tells no two"
    ) as caught:
        run(DPO(learning_rate=0.1), policy, **options)
    assert "\n" not in str(caught.value)
    assert same_weights(policy, tiny_policy())


def test_a_run_that_never_updates_ends_with_an_error() -> None:
    """A budget in updates would never be spent."""
    constant = lambda completions, **_: [1.0] * len(completions)  # noqa: E731

    def impatient(state: TrainState, _: float) -> None:
        assert state.iteration < 1000, "goes on for ever"

    options: dict[str, Any] = {"prompts": PROMPTS, "pairs": None, "reward": constant, "hook": impatient}
    with pytest.raises(RunError, match="update") as caught:
        run(DPO(), budget="5updates", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("algorithm", [REINFORCE(baseline="none"), PPO(), DPO(on_policy=True)])
def test_a_greedy_prefix_carries_no_loss_in_training(algorithm: Algorithm) -> None:
    sampling = replace(SAMPLING, greedy_prefix=2)
    data = {"prompts": PROMPTS, "pairs": None, "reward": count_b, "sampling": sampling, "micro_batch": 100}
    prepared, _ = first_batch(algorithm, **data)
    logps_PGT = torch.zeros_like(prepared.mask_PGT, dtype=torch.float32, requires_grad=True)
    values_PGT = torch.ones_like(logps_PGT).requires_grad_()
    loss, _ = algorithm.loss(Outputs(logps_PGT, torch.zeros_like(logps_PGT), values_PGT), prepared)
    for x_PGT in (logps_PGT, values_PGT)[: 2 if algorithm.needs.values else 1]:
        (gradient_PGT,) = torch.autograd.grad(loss, x_PGT, retain_graph=True)
        assert not bool(gradient_PGT[..., :2].any())
        assert bool(gradient_PGT[..., 2:].any())


@pytest.mark.parametrize("name", ["reinforce", "ppo"])
def test_an_iteration_that_is_all_prefix_makes_no_update(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every prompt's greedy answer ends within the prefix: nothing to learn, nothing to break, and no activations that are
    kept for a step which is not made."""
    iterate = Loop.iterate

    def watched(loop: Loop) -> dict[str, float]:
        row = iterate(loop)
        assert loop.ahead is None
        return row

    monkeypatch.setattr(Loop, "iterate", watched)
    policy = tiny_policy()
    with torch.no_grad():
        for p in policy.model.parameters():
            p.zero_()  # equal logits everywhere: the first id, EOS, is the greedy choice
    policy = Policy(policy.model, policy.tokenizer, dtype="fp32")
    rows: list[dict[str, float]] = []

    def hook(state: TrainState, _: float) -> None:
        rows[:] = state.history

    with pytest.raises(RunError, match=r"before its first update.*within its greedy prefix"):
        run(ALGORITHMS[name], policy, sampling=replace(SAMPLING, greedy_prefix=2), hook=hook)
    assert [row["updates"] for row in rows] == [0, 0, 0]
    for row in rows:
        row.pop("explained_variance", None)  # of no token there is none
        assert all(math.isfinite(value) for value in row.values())


def test_temperature_reaches_sampler_policy_and_reference_alike() -> None:
    sampling = replace(SAMPLING, temperature=0.6)
    for name in ("reinforce", "ppo", "dpo"):
        seen = spy(ALGORITHMS[name])
        run(seen, budget="1iterations", sampling=sampling)
        _, prepared = seen.calls[0]
        logps, _ = score_policy(tiny_policy(), prepared, 0.6)
        mask = prepared.mask_PGT
        torch.testing.assert_close(prepared.ref_logps_PGT[mask], logps[mask], atol=1e-5, rtol=1e-5)
        if prepared.sampler_logps_PGT is not None:
            torch.testing.assert_close(prepared.sampler_logps_PGT[mask], logps[mask], atol=1e-5, rtol=1e-5)


# Inputs ------------------------------------------------------------------------------------------------


def test_prompts_come_as_texts_rows_or_a_dataset_with_their_columns() -> None:
    from datasets import Dataset

    labels: list[list[int]] = []

    def reward(completions: list[str], label: list[int], **_: Any) -> list[float]:
        labels.append(label)
        return [float(i) for i in range(len(completions))]

    rows = [{"prompt": prompt, "label": i} for i, prompt in enumerate(PROMPTS)]
    policies = [tiny_policy(), tiny_policy()]
    for policy, data in zip(policies, (rows, Dataset.from_list(rows)), strict=True):
        run(REINFORCE(), policy, prompts=data, reward=reward, budget="1iterations")
    assert same_weights(*policies)
    assert labels[0] == labels[1]
    assert sorted(labels[0]) == sorted([i for i in range(4) for _ in range(4)])


def test_an_epoch_of_prompts_visits_each_once_in_an_order_of_the_seed() -> None:
    def visited(seed: int) -> list[str]:
        seen: list[str] = []

        def reward(prompts: list[str], **_: Any) -> list[float]:
            seen.extend(prompts)
            return [0.0] * len(prompts)

        sampling = Sampling(max_new_tokens=2, group_size=1, prompts_per_iteration=3)
        words = [" ".join("ab"[(i >> k) & 1] for k in range(3)) for i in range(6)]
        run(
            REINFORCE(baseline="none"),
            prompts=words,
            reward=reward,
            sampling=sampling,
            budget="4iterations",
            seed=seed,
        )
        return seen

    first = visited(0)
    assert len(set(first[:6])) == len(set(first[6:])) == 6
    assert first[:6] != first[6:]
    assert first == visited(0) != visited(1)


def test_more_prompts_an_iteration_than_there_are_prompts() -> None:
    rollouts, _ = first_batch(REINFORCE(), prompts=["a"], micro_batch=100)
    assert (rollouts.P, rollouts.G) == (4, 4)
    assert len({tuple(row) for row in rollouts.response_ids_PGT.flatten(0, 1).tolist()}) > 4


def test_the_history_counts_what_was_dropped() -> None:
    history = run(REINFORCE(), prompts=[*PROMPTS, " ".join(["a"] * 40)])
    assert history.counts == {"prompt too long": 1}
    assert len(history.to_pandas()) == 3
    assert list(history.to_pandas()["iterations"]) == [1, 2, 3]


def test_the_hook_sees_the_start_and_every_iteration() -> None:
    seen: list[tuple[int, float]] = []
    run(
        REINFORCE(),
        hook=lambda state, progress: seen.append((state.iteration, progress)),
        budget="4iterations",
    )
    assert seen == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]


@pytest.mark.parametrize("name", ["ppo", "ppo-separate", "dpo"])
def test_dropout_that_a_hook_or_the_caller_switched_on_is_off_again(name: str) -> None:
    """As a callback does that generates or evaluates, and goes back to "training"."""

    def dropping() -> Policy:
        tokenizer = word_tokenizer("a b")
        return Policy(gpt2(len(tokenizer), dropout=0.1), tokenizer, dtype="fp32")

    def switch(state: TrainState, _: float) -> None:
        state.policy.model.train()
        if state.critic is not None:
            state.critic.train()

    policies = [dropping(), dropping(), dropping()]
    policies[1].model.train()
    rows = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in history.rows]
        for history in (
            run(ALGORITHMS[name], policies[0]),
            run(ALGORITHMS[name], policies[1]),
            run(ALGORITHMS[name], policies[2], hook=switch),
        )
    ]
    assert len(rows[0]) == 3
    assert rows[0] == rows[1] == rows[2]
    assert same_weights(policies[0], policies[1])
    assert same_weights(policies[0], policies[2])
    assert not any(policy.model.training for policy in policies)


def test_every_iteration_draws_anew_and_every_pass_in_another_order() -> None:
    words = [" ".join("ab"[(i >> k) & 1] for k in range(3)) for i in range(6)]
    seen = spy(PPO(learning_rate=1e-9, ppo_epochs=4, minibatches=3))
    sampling = replace(SAMPLING, prompts_per_iteration=6)
    run(seen, prompts=words, sampling=sampling, budget="2iterations")
    drawn = [
        [tuple(row) for row in prepared.prompt_ids_PL[prepared.prompt_mask_PL].view(-1, 3).tolist()]
        for _, prepared in seen.calls
    ]
    passes = [[row for part in drawn[i : i + 3] for row in part] for i in range(0, 24, 3)]
    assert all(len(set(order)) == 6 for order in passes)
    assert len({tuple(order) for order in passes[:4]}) > 1
    again = spy(REINFORCE(learning_rate=1e-9))
    run(again, prompts=["a"], budget="2iterations")
    first, second = (prepared.response_ids_PGT for _, prepared in again.calls)
    assert first.shape != second.shape or not torch.equal(first, second)
