"""Budgets in every unit, what is counted against them, and the learning rate as a function of progress."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_policy

from algos import DPO, PPO, REINFORCE, Budget, Policy, Sampling, UserError, train
from algos.engine.batches.recorded import reference_logps
from algos.engine.budget import UNITS, Meter
from algos.engine.loop import learning_rate
from algos.engine.state import TrainState, read_state
from algos.engine.storage import saved_states


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("20k", 20_000, "completions"), ("20K", 20_000, "completions"), ("512", 512, "completions"),
        ("1.5M", 1_500_000, "completions"), ("300updates", 300, "updates"), ("40iterations", 40, "iterations"),
        ("8kcompletions", 8_000, "completions"), ("2Mgenerated_tokens", 2e6, "generated_tokens"),
        ("2.5k trained_tokens", 2_500, "trained_tokens"), ("2e15flops", 2e15, "flops"), ("2Pflops", 2e15, "flops"),
        ("1e-1Gflops", 1e8, "flops"), ("3Tflops", 3e12, "flops"), ("90s", 90, "seconds"), ("1.5h", 5400, "seconds"),
        ("10min", 600, "seconds"), ("2hours", 7200, "seconds"), ("90seconds", 90, "seconds"), (" 7 updates ", 7, "updates"),
    ],
)  # fmt: skip
def test_budgets_are_read_in_every_unit(text: str, amount: float, unit: str) -> None:
    budget = Budget.parse(text)
    assert budget.unit == unit
    assert budget.amount == pytest.approx(amount)
    assert Budget.parse(budget) is budget


@pytest.mark.parametrize(
    "text",
    [
        "",
        "updates",
        "-5updates",
        "0updates",
        "1.2.3k",
        ".",
        "1e999flops",
        "5epochs",
        "5 Updates",
        "nan",
        "k",
        "20kk",
        "5updates now",
        "5_000",
        "∞",
        "²k",
    ],
)
def test_what_is_no_budget_is_one_line(text: str) -> None:
    with pytest.raises(UserError) as caught:
        Budget.parse(text)
    assert "\n" not in str(caught.value)


@given(st.floats(1e-3, 1e18, allow_nan=False), st.sampled_from(UNITS))
def test_a_budget_written_out_reads_the_same(amount: float, unit: str) -> None:
    """To the last digit: a checkpoint knows its run's budget by it."""
    budget = Budget(amount, unit)
    assert Budget.parse(str(budget)) == budget


def test_the_meter_counts_fractions() -> None:
    meter = Meter(updates=3, completions=50)
    meter.charge(parameters=10, tokens=7)
    meter.charge(parameters=10, tokens=7, factor=6)
    assert meter.flops == 2 * 70 + 6 * 70
    assert meter.spent(Budget(200, "completions")) == 0.25
    assert meter.spent(None) == 0
    with meter.running():
        pass
    assert meter.seconds > 0


# FLOPs by hand -----------------------------------------------------------------------------------------

PROMPTS = ["a", "b a b"]
SIX = Sampling(max_new_tokens=5, group_size=3, prompts_per_iteration=2)
SMALL = Sampling(max_new_tokens=3, group_size=2, prompts_per_iteration=2)


def lengths(completion_ids: list[list[int]], **_: object) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


class Recorder:
    """A reward that remembers how many tokens each response had."""

    parameter_count = 1000

    def __init__(self) -> None:
        self.tokens: list[list[int]] = []

    def __call__(self, *, completion_ids: list[list[int]], **_: object) -> list[float]:
        self.tokens.append([len(ids) for ids in completion_ids])
        return [float(i % 3) for i in range(len(completion_ids))]


def parameters(policy: Policy) -> int:
    return sum(p.numel() for p in policy.model.parameters())


def test_reinforce_charges_what_the_table_says() -> None:
    """Sampling 2, reward model 2, reference 2 and training 6 a parameter and token; prompts once a response."""
    policy, reward = tiny_policy(), Recorder()
    history = train(REINFORCE(), policy, prompts=PROMPTS, reward=reward, sampling=SIX, budget="1iterations")
    row, (tokens,) = history.rows[-1], reward.tokens
    n, attended = parameters(policy), 3 * (1 + 3) + sum(tokens)
    assert row["flops"] == 2 * n * attended + 2 * 1000 * attended + 2 * n * attended + 6 * n * attended
    assert row["generated_tokens"] == row["trained_tokens"] == sum(tokens)
    assert (row["completions"], row["reward_calls"], row["updates"], row["iterations"]) == (6, 6, 1, 1)


def test_every_ppo_epoch_is_charged() -> None:
    policy, reward = tiny_policy(), Recorder()
    algorithm = PPO(ppo_epochs=3, minibatches=2)
    row = train(algorithm, policy, prompts=PROMPTS, reward=reward, sampling=SIX, budget="1iterations").rows[
        -1
    ]
    n, attended = parameters(policy), 3 * (1 + 3) + sum(reward.tokens[0])
    assert row["flops"] == (2 * n + 2 * 1000 + 2 * n + 3 * 6 * n) * attended
    assert row["trained_tokens"] == 3 * sum(reward.tokens[0])
    assert row["updates"] == 6


def test_a_greedy_baseline_is_charged_its_completions_tokens_and_labels() -> None:
    policy, reward = tiny_policy(), Recorder()
    row = train(
        REINFORCE(baseline="greedy"),
        policy,
        prompts=PROMPTS,
        reward=reward,
        sampling=SIX,
        budget="1iterations",
    ).rows[-1]
    drawn, greedy = reward.tokens
    n, attended, best = parameters(policy), 3 * (1 + 3) + sum(drawn), 1 + 3 + sum(greedy)
    assert (len(drawn), len(greedy)) == (6, 2)
    assert row["flops"] == (2 * n + 2 * 1000) * (attended + best) + (2 * n + 6 * n) * attended
    assert row["generated_tokens"] == sum(drawn) + sum(greedy)
    assert (row["completions"], row["reward_calls"]) == (8, 8)


def test_dpo_charges_the_reference_once_and_training_every_epoch() -> None:
    policy = tiny_policy()
    pairs = [
        {"prompt": "a", "chosen": " b", "rejected": " a a"},
        {"prompt": "b a", "chosen": " b", "rejected": " a"},
    ]
    row = train(DPO(epochs=3, batch_size=1), policy, pairs=pairs).rows[-1]
    n, attended = parameters(policy), (2 * 1 + 2 + 3) + (2 * 2 + 2 + 2)
    assert row["flops"] == (2 * n + 3 * 6 * n) * attended
    assert row["trained_tokens"] == 3 * (2 + 3 + 2 + 2)
    assert (row["updates"], row["completions"], row["generated_tokens"], row["reward_calls"]) == (6, 12, 0, 0)


@pytest.mark.parametrize(
    "unit", ["updates", "iterations", "completions", "generated_tokens", "trained_tokens", "flops"]
)
def test_a_run_stops_with_the_iteration_that_spends_its_budget(unit: str) -> None:
    whole = train(
        REINFORCE(), tiny_policy(), prompts=PROMPTS, reward=lengths, sampling=SMALL, budget="5iterations"
    ).rows
    amount = (whole[1][unit] + whole[2][unit]) / 2  # spent within the third iteration
    rows = train(
        REINFORCE(),
        tiny_policy(),
        prompts=PROMPTS,
        reward=lengths,
        sampling=SMALL,
        budget=Budget(amount, unit),
    ).rows
    assert len(rows) == 3
    assert [row["fraction"] for row in rows] == pytest.approx(
        [min(row[unit] / amount, 1) for row in whole[:3]]
    )


def test_a_budget_in_seconds_ends() -> None:
    rows = train(
        REINFORCE(), tiny_policy(), prompts=PROMPTS, reward=lengths, sampling=SMALL, budget="0.05s"
    ).rows
    assert rows[-1]["seconds"] >= 0.05
    assert len(rows) == 1 or rows[-2]["seconds"] < 0.05


def test_a_budget_in_seconds_is_of_what_follows_the_references_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which another run may have left in the cache, and whose time is told all the same."""
    pairs = [{"prompt": "a", "chosen": " b" * n, "rejected": " a"} for n in range(1, 9)]
    states: list[TrainState] = []

    def slow(*arguments: Any) -> Any:
        time.sleep(0.3)
        return reference_logps(*arguments)

    def hook(state: TrainState, progress: float) -> None:
        states.append(state)
        assert state.iteration or progress == 0
        if len(states) == 2:
            state.save(tmp_path)

    monkeypatch.setattr("algos.engine.batches.sources.reference_logps", slow)
    algorithm = DPO(epochs=10_000, learning_rate=1e-3)
    rows = train(algorithm, tiny_policy(), pairs=pairs, budget="0.2s", hook=hook).rows
    assert rows[0]["learning_rate"] == 1e-3
    assert rows[-1]["seconds"] >= 0.5
    assert len(rows) == 1 or rows[-2]["seconds"] < 0.3 + 0.2 + 0.2
    meter, saved = states[0].meter, read_state(saved_states(tmp_path)[-1])["meter"]
    assert 0.3 <= meter.preparation == saved["preparation"] < saved["seconds"]


def test_pairs_stop_after_their_epochs_or_with_the_budget() -> None:
    pairs = [{"prompt": "a", "chosen": " b" * n, "rejected": " a"} for n in range(1, 9)]
    algorithm = DPO(epochs=2, batch_size=2)
    assert len(train(algorithm, tiny_policy(), pairs=pairs).rows) == 8
    assert len(train(algorithm, tiny_policy(), pairs=pairs, budget="1M").rows) == 8
    assert len(train(algorithm, tiny_policy(), pairs=pairs, budget="3updates").rows) == 3
    assert len(train(algorithm, tiny_policy(), pairs=pairs, budget="12").rows) == 3


# The learning rate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "warmup", "progress", "share"),
    [
        ("constant", 0.0, 0.7, 1.0), ("linear", 0.0, 0.0, 1.0), ("linear", 0.0, 0.25, 0.75), ("linear", 0.0, 1.0, 0.0),
        ("cosine", 0.0, 0.5, 0.5), ("cosine", 0.0, 0.25, 0.5 * (1 + math.sqrt(0.5))), ("cosine", 0.0, 1.0, 0.0),
        ("linear", 0.2, 0.1, 0.5), ("linear", 0.2, 0.2, 1.0), ("linear", 0.2, 0.6, 0.5), ("constant", 0.5, 0.25, 0.5),
    ],
)  # fmt: skip
def test_schedules_by_hand(schedule: str, warmup: float, progress: float, share: float) -> None:
    algorithm = REINFORCE(learning_rate=4.0, schedule=schedule, warmup=warmup)
    assert learning_rate(algorithm, progress) == pytest.approx(4 * share, abs=1e-12)


@given(st.floats(0, 1), st.floats(0, 0.99), st.sampled_from(["constant", "linear", "cosine"]))
def test_the_rate_is_never_above_what_was_asked_for(progress: float, warmup: float, schedule: str) -> None:
    assert 0 <= learning_rate(REINFORCE(learning_rate=1.0, schedule=schedule, warmup=warmup), progress) <= 1


def test_the_first_step_of_a_warm_up_is_no_waste() -> None:
    assert learning_rate(REINFORCE(learning_rate=1.0, warmup=0.5), 0.0) > 0


def test_the_rate_follows_the_fraction_spent_whatever_its_unit() -> None:
    for budget in ("4iterations", "16completions", "4updates"):
        rows = train(
            REINFORCE(learning_rate=0.1),
            tiny_policy(),
            prompts=PROMPTS,
            reward=lengths,
            sampling=SMALL,
            budget=budget,
        ).rows
        assert [row["learning_rate"] for row in rows] == pytest.approx([0.1, 0.075, 0.05, 0.025])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("512", "512 completions"), ("10k", "10,000 completions"), ("1updates", "1 update"), ("8updates", "8 updates"),
        ("5e11flops", "5e11 FLOPs"), ("1.5h", "5,400 seconds"), ("2kgenerated_tokens", "2,000 generated tokens"),
    ],
)  # fmt: skip
def test_a_budget_is_told_with_its_unit(text: str, told: str) -> None:
    assert Budget.parse(text).told == told
