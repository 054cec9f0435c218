"""`train()`: what it guarantees at its start, per step and whatever the micro-batch; and that arms learn."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from tiny import EOS, gpt2, rollouts_of, same_weights, tiny_policy, word_tokenizer

from algos import DPO, PPO, REINFORCE, Algorithm, Policy, RunError, Sampling, train
from algos.engine.algorithm import Outputs
from algos.engine.rewards import RewardError
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_policy, score_reference
from algos.engine.state import TrainState

PROMPTS = ["a", "b a b", "a b", "b"]
SAMPLING = Sampling(max_new_tokens=5, group_size=4, prompts_per_iteration=4)
PAIRS = [{"prompt": "a b", "chosen": " b" * n, "rejected": " a" * (6 - n)} for n in range(1, 6)] + [
    {"prompt": "b", "chosen": " b a", "rejected": " a b a a"}
]
ALGORITHMS = {
    "reinforce": REINFORCE(learning_rate=1e-2, aggregation="token_mean"),
    "ppo": PPO(learning_rate=1e-2, ppo_epochs=2, minibatches=2),
    "ppo-separate": PPO(learning_rate=1e-2, value_model="separate"),
    "value": REINFORCE(learning_rate=1e-2, baseline="value"),
    "dpo": DPO(learning_rate=1e-2, epochs=2, batch_size=4),
}


def count_b(completions: list[str], **_: Any) -> list[float]:
    return [text.split().count("b") / 5 for text in completions]


def run(
    algorithm: Algorithm, policy: Policy | None = None, budget: str = "3iterations", **options: Any
) -> Any:
    data: dict[str, Any] = (
        {"pairs": PAIRS} if isinstance(algorithm, DPO) else {"prompts": PROMPTS, "reward": count_b}
    )
    data |= {"sampling": SAMPLING, "budget": budget} | options
    return train(algorithm, policy or tiny_policy(), **data)


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


def spy(algorithm: Algorithm) -> Any:
    """The same algorithm, remembering what its loss was given."""
    kind = type(algorithm)

    class Spy(kind):  # type: ignore[misc, valid-type]
        calls: list[tuple[Outputs, Rollouts]] = []  # noqa: RUF012

        def loss(self, outputs: Outputs, prepared: Rollouts) -> Any:
            self.calls.append((outputs, prepared))
            return super().loss(outputs, prepared)

    return Spy(**{field.name: getattr(algorithm, field.name) for field in fields(algorithm)})


@pytest.mark.parametrize("name", ["reinforce", "ppo", "dpo"])
def test_dropout_left_on_ends_the_run_before_the_first_update(name: str) -> None:
    tokenizer = word_tokenizer("a b")
    policy = Policy(gpt2(len(tokenizer), dropout=0.5), tokenizer, dtype="fp32")
    policy.model.train()
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
    monkeypatch.setattr("algos.engine.trainer.check_start", lambda *_: None)
    with pytest.raises(RunError, match="ratio to the sampling policy is not 1"):
        run(PPO())


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


# Rewards, ends and prefixes --------------------------------------------------------------------------


def scores(algorithm: Algorithm, **options: Any) -> tuple[Rollouts, dict[str, float]]:
    seen = spy(algorithm)
    row = run(seen, budget="1iterations", **options).rows[0]
    return seen.calls[0][1], row


def test_missing_eos_costs_once_for_every_arm_alike() -> None:
    constant = lambda completions, **_: [1.0] * len(completions)  # noqa: E731
    sampling = replace(SAMPLING, missing_eos_penalty=0.25)
    for algorithm in (REINFORCE(), PPO(), PPO(minibatches=2), DPO()):
        rollouts, _ = scores(
            algorithm, prompts=PROMPTS, pairs=None, reward=constant, sampling=sampling, micro_batch=100
        )
        expected = torch.where(rollouts.ended_PG, 1.0, 0.75)
        torch.testing.assert_close(rollouts.scores_PG, expected)
        assert 0 < int(rollouts.ended_PG.sum()) < rollouts.ended_PG.numel()


def test_the_greedy_baseline_is_the_penalised_score_of_the_greedy_response() -> None:
    sampling = replace(SAMPLING, missing_eos_penalty=0.25)
    rollouts, _ = scores(REINFORCE(baseline="greedy", beta=0.0), sampling=sampling, micro_batch=100)
    assert rollouts.greedy_scores_P is not None
    policy = tiny_policy()
    for p in range(rollouts.P):
        ids = rollouts.prompt_ids_PL[p][rollouts.prompt_mask_PL[p]].tolist()
        answer: list[int] = []
        while len(answer) < 5 and EOS not in answer:
            with torch.no_grad():
                answer.append(int(policy.model(torch.tensor([ids + answer])).logits[0, -1].argmax()))
        score = answer.count(2) / 5 - (0 if answer[-1] == EOS else 0.25)
        assert float(rollouts.greedy_scores_P[p]) == pytest.approx(score)
        expected = rollouts.scores_PG[p] - score
        torch.testing.assert_close(rollouts.advantages_PGT[p, :, 0], expected)


def test_dpo_learns_from_sampled_groups_best_against_worst() -> None:
    rollouts, row = scores(DPO(), prompts=PROMPTS, pairs=None, reward=count_b, micro_batch=100)
    assert rollouts.G == 2
    assert bool((rollouts.scores_PG[:, 0] > rollouts.scores_PG[:, 1]).all())
    assert row["reward/train"] >= 0


def test_groups_without_an_order_give_no_update() -> None:
    policy = tiny_policy()
    constant = lambda completions, **_: [1.0] * len(completions)  # noqa: E731
    rows = run(DPO(learning_rate=0.1), policy, prompts=PROMPTS, pairs=None, reward=constant).rows
    assert [row["updates"] for row in rows] == [0, 0, 0]
    assert same_weights(policy, tiny_policy())


def test_a_greedy_prefix_carries_no_loss_in_training() -> None:
    rollouts, row = scores(REINFORCE(), sampling=replace(SAMPLING, greedy_prefix=2))
    assert not bool(rollouts.loss_mask_PGT[..., :2].any())
    assert row["loss"] == pytest.approx(row["policy_loss"])


@pytest.mark.parametrize("name", ["reinforce", "ppo"])
def test_an_iteration_that_is_all_prefix_logs_finite_numbers(name: str) -> None:
    """Every prompt's greedy answer ends within the prefix: nothing to learn, nothing to break."""
    policy = tiny_policy()
    with torch.no_grad():
        for p in policy.model.parameters():
            p.zero_()  # equal logits everywhere: the first id, EOS, is the greedy choice
    policy = Policy(policy.model, policy.tokenizer, dtype="fp32")
    rows = run(ALGORITHMS[name], policy, sampling=replace(SAMPLING, greedy_prefix=2)).rows
    assert all(value == value and abs(value) != float("inf") for row in rows for value in row.values())


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
    rollouts, _ = scores(REINFORCE(), prompts=["a"], micro_batch=100)
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


# Learning ----------------------------------------------------------------------------------------------

LEARNERS = {
    **{
        f"reinforce-{b}": REINFORCE(beta=0.02, baseline=b, learning_rate=2e-2)
        for b in ("none", "ema", "batch_mean", "leave_one_out", "greedy", "value")
    },
    "reinforce-to-go": REINFORCE(beta=0.02, reward_to_go=True, learning_rate=2e-2),
    "reinforce-token_mean": REINFORCE(beta=0.02, aggregation="token_mean", learning_rate=2e-2),
    "ppo": PPO(beta=0.02, learning_rate=2e-2),
    "ppo-separate": PPO(
        beta=0.02, learning_rate=2e-2, value_model="separate", minibatches=2, whiten_rewards=True
    ),
    "ppo-adaptive": PPO(
        beta=0.02, learning_rate=2e-2, kl_control="adaptive", clip_range_high=0.3, dual_clip=3.0
    ),
    "dpo-online": DPO(beta=0.1, learning_rate=1e-2),
}


def mean_reward(policy: Policy) -> float:
    from algos import sample
    from algos.engine.prompts import encode_prompts, score

    rows, _ = encode_prompts(policy, PROMPTS, 5)
    rollouts = sample(policy, [row.ids for row in rows], replace(SAMPLING, group_size=64), 99)
    return float(score(policy, rows, rollouts, count_b).mean())


@pytest.mark.parametrize("name", LEARNERS)
def test_every_algorithm_learns_to_prefer_a_word(name: str) -> None:
    policy = tiny_policy()
    start = mean_reward(policy)
    options: dict[str, Any] = {"prompts": PROMPTS, "pairs": None, "reward": count_b}
    run(LEARNERS[name], policy, budget="25iterations", sampling=replace(SAMPLING, group_size=8), **options)
    assert start < 0.5
    assert mean_reward(policy) > 0.85


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_normalised", "robust", "hinge", "ipo", "ipo_average"])
@pytest.mark.parametrize("reference_free", [False, True])
def test_every_dpo_loss_learns_to_order_pairs(loss: str, reference_free: bool) -> None:
    policy = tiny_policy()
    algorithm = DPO(
        loss_type=loss, reference_free=reference_free, learning_rate=5e-3, epochs=20, batch_size=6
    )
    rows = run(algorithm, policy, budget=None).rows
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    if not reference_free:  # the margin is measured against the reference, whatever the loss is
        assert rows[0]["margin"] == pytest.approx(0, abs=1e-5)
        assert rows[-1]["accuracy"] == 1
        assert rows[-1]["margin"] > 0.1


def test_lora_learns_with_its_base_frozen() -> None:
    from peft import LoraConfig, get_peft_model

    tokenizer = word_tokenizer("a b")
    base = gpt2(len(tokenizer))
    before = {name: p.clone() for name, p in base.named_parameters()}
    model = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    policy = Policy(model, tokenizer, dtype="fp32")
    start = mean_reward(policy)
    row = run(PPO(beta=0.02, learning_rate=3e-2), policy, budget="20iterations").rows[0]
    assert row["kl/train"] == 0
    assert mean_reward(policy) > start + 0.2
    frozen = {name: p for name, p in model.get_base_model().named_parameters() if "lora_" not in name}
    assert len(frozen) == len(before)
    for name, p in frozen.items():
        assert torch.equal(p, before[name.replace(".base_layer", "")])


def test_the_state_starts_with_what_the_algorithm_needs() -> None:
    policy = tiny_policy()
    assert TrainState.start(REINFORCE(), policy, 0).critic is None
    assert TrainState.start(PPO(), policy, 0).critic is not None
    optimizer = TrainState.start(PPO(adam_eps=1e-5, weight_decay=0.1), policy, 0).optimizer
    assert optimizer.param_groups[0]["eps"] == 1e-5
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
