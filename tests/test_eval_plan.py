"""A plan's costs are those that a run's meter counts, where every text is as long as the plan says."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from small_world import SmallWorld, compared
from tiny import llama, word_tokenizer

from algos import DPO, PPO, REINFORCE, Algorithm, Policy, Sampling, UserError, train
from eval.experiment import Experiment
from eval.plan import flops, iteration, iterations, rows, scored
from eval.report.numbers.frames import evaluations
from eval.report.sections import summary
from eval.settings.parts import Evaluation, Frontier
from eval.store import Store
from eval.tasks.custom.sizes import sizes

SAMPLING = Sampling(max_new_tokens=4, group_size=3, prompts_per_iteration=4)
PROMPTS = [" ".join(words) for words in itertools.product("abc", repeat=3)][:20]
PAIRS = [{"prompt": prompt, "chosen": " a b c a", "rejected": " b b a c"} for prompt in PROMPTS]
UNITS = ("updates", "iterations", "completions", "generated_tokens", "trained_tokens", "flops")


@dataclass(frozen=True)
class Scored:
    """A reward that costs what a model of so many parameters would."""

    parameter_count: int

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        return [float(text.count("a")) for text in completions]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Without EOS, so that every response is as long as can be, and with a head of its own."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = word_tokenizer("a b c", eos=None, pad="<pad>")
    llama(len(tokenizer), eos=None).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    (folder / "reward.py").write_text("def score(completions, **_): return [0.0 for _ in completions]")
    return str(folder)


def planned(model: str, **changes: Any) -> Experiment:
    return Experiment(
        task="custom", model=model, prompts=f"{model}/prompts.jsonl", reward=f"{model}/reward.py:score",
        sampling=SAMPLING, device="cpu", **changes,
    )  # fmt: skip


def loaded(experiment: Experiment) -> Policy:
    return Policy.load(
        experiment.model or "", device="cpu", lora=experiment.adapter,
        gradient_checkpointing=experiment.gradient_checkpointing,
    )  # fmt: skip


def counted(
    algorithm: Algorithm, experiment: Experiment, reward: Scored, budget: str
) -> list[dict[str, float]]:
    """What the meter of a run says after each iteration."""
    data: dict[str, Any] = (
        {"pairs": PAIRS} if isinstance(algorithm, DPO) else {"prompts": PROMPTS, "reward": reward}
    )
    return train(algorithm, loaded(experiment), sampling=SAMPLING, budget=budget, **data).rows


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(
    "algorithm",
    [
        REINFORCE(baseline="batch_mean"),
        REINFORCE(baseline="greedy"),
        PPO(ppo_epochs=2, minibatches=2),
        PPO(value_model="separate", ppo_epochs=3, minibatches=1),
        DPO(batch_size=5),
    ],
    ids=["reinforce", "greedy", "ppo", "separate critic", "dpo"],
)
def test_an_iteration_costs_what_the_meter_counts(
    model: str, algorithm: Algorithm, lora: bool, checkpointing: bool
) -> None:
    experiment = planned(model, lora=lora, gradient_checkpointing=checkpointing)
    reward = Scored(1000)
    plan = replace(sizes(experiment), reward_parameters=reward.parameter_count)
    first, second = counted(algorithm, experiment, reward, "2iterations")
    said = iteration(algorithm, experiment, plan)
    assert set(said) == set(UNITS)
    for unit in UNITS[:-1]:
        assert said[unit] == second[unit] - first[unit] == first[unit]
    assert said["flops"] == first["flops"]


def test_an_iteration_of_a_saved_adapter_costs_what_the_meter_counts(model: str, tmp_path: Path) -> None:
    Policy.load(model, lora=True, device="cpu").save(tmp_path)
    algorithm, experiment = REINFORCE(baseline="batch_mean"), replace(planned(model), model=str(tmp_path))
    plan = replace(sizes(experiment), reward_parameters=0)
    (row,) = counted(algorithm, experiment, Scored(0), "1iterations")
    assert iteration(algorithm, experiment, plan)["flops"] == row["flops"]


def test_the_reference_reads_recorded_pairs_once(model: str) -> None:
    arm, experiment = DPO(batch_size=5, epochs=3), planned(model, budget="1Gcompletions")
    plan = replace(sizes(experiment), pairs=len(PAIRS))
    rows = counted(arm, experiment, Scored(0), "1G")
    count = iterations(arm, experiment, plan)
    assert count == len(rows) == 12
    assert flops(arm, experiment, plan, count) == pytest.approx(rows[-1]["flops"], rel=1e-12)
    # And the other way round: a budget of so many FLOPs buys as many iterations.
    for made in (3, 9):
        bought = replace(experiment, budget=f"{rows[made - 1]['flops']:.0f}flops")
        assert iterations(arm, bought, plan) == pytest.approx(made, rel=1e-9)


@pytest.mark.parametrize(
    ("algorithm", "budget", "made"),
    [
        (PPO(ppo_epochs=4, minibatches=2), "3updates", 1),  # of 8 in an iteration
        (PPO(ppo_epochs=4, minibatches=2), "9updates", 2),
        (REINFORCE(baseline="batch_mean"), "40", 4),  # of 12 completions each
        (REINFORCE(baseline="batch_mean"), "36", 3),
        (REINFORCE(baseline="batch_mean"), "1flops", 1),
        (REINFORCE(baseline="greedy"), "100generated_tokens", 2),
        (PPO(ppo_epochs=3, minibatches=1), "150trained_tokens", 2),
        (DPO(batch_size=5), "25", 3),  # of 10 each
        (DPO(batch_size=5), "0.5iterations", 1),
        (DPO(batch_size=5, epochs=2), "1k", 8),  # its epochs end before
    ],
    ids=lambda value: value.name if isinstance(value, Algorithm) else str(value),
)
def test_a_run_ends_with_the_iteration_that_reaches_the_budget(
    model: str, algorithm: Algorithm, budget: str, made: int
) -> None:
    experiment = planned(model, algos=(algorithm.name,), budget=budget)
    experiment = replace(
        experiment, hyperparameters=replace(experiment.hyperparameters, **{algorithm.name: algorithm})
    )
    plan = replace(sizes(experiment), pairs=len(PAIRS))
    counts = counted(algorithm, experiment, Scored(0), budget)
    assert iterations(algorithm, experiment, plan) == len(counts) == made
    cost = flops(algorithm, experiment, plan, made)
    assert cost == pytest.approx(counts[-1]["flops"], rel=1e-12)
    shown = [str(made), f"{counts[-1]['completions']:.0f}", f"{cost:.2e}"]
    named = {algorithm.name: 7}
    assert rows(experiment, plan, named) == [[algorithm.name, algorithm.name, "7", *shown]]


def test_rounding_buys_no_iteration(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    each = 0.1
    assert 3 * each / each > 3
    plan = sizes(planned(model))
    monkeypatch.setattr("eval.plan.iteration", lambda *_: {"flops": each})
    assert iterations(REINFORCE(), planned(model, budget=f"{3 * each!r}flops"), plan) == 3


def test_a_budget_of_time_buys_what_nobody_knows(model: str) -> None:
    experiment = planned(model, budget="5min")
    plan = replace(sizes(experiment), pairs=20)
    assert iterations(PPO(), experiment, plan) is None
    assert iterations(DPO(batch_size=5), experiment, plan) == 4  # its epochs end before
    assert iterations(DPO(batch_size=5), experiment, replace(plan, pairs=None)) is None


def test_what_is_known_of_texts_and_models(model: str) -> None:
    given, quick = sizes(planned(model)), sizes(planned(model), quick=True)
    assert given == replace(quick, pairs=1024)  # what is sampled where none are given
    assert quick.pairs is None
    assert (given.prompt_tokens, given.longest_prompt, given.response_tokens) == (3, 3, 4)
    assert (given.reward_parameters, given.judge_parameters) == (0, 0)
    policy = Policy.load(model, device="cpu")
    assert given.parameters == policy.size
    assert given.trunk_parameters == policy.size - policy.inner.get_output_embeddings().weight.numel()
    learned = sizes(Experiment(task="custom", model=model, pairs=f"{model}/pairs.jsonl", sampling=SAMPLING))
    assert learned.scorer_parameters == 2 * given.parameters  # a reward model and a judge of the model's size
    assert learned.pairs is not None
    assert 0 < learned.pairs < len(PAIRS)


@pytest.mark.parametrize("what", ["reward", "judge"])
def test_a_plan_tells_a_function_without_py_as_a_comparison_does(model: str, what: str) -> None:
    with pytest.raises(UserError, match=rf"no model 'my_reward:score' for the {what}\. .*; add the \.py\."):
        sizes(replace(planned(model), **{what: "my_reward:score"}))


def test_every_response_that_is_scored_is_counted(model: str) -> None:
    asked = planned(
        model, budget="3iterations", seeds=2, sampled_pairs=10, eval=Evaluation(prompts=5, responses=2, points=3),
        frontier=Frontier(prompts=4, samples=8),
    )  # fmt: skip
    found = sizes(asked)
    runs = {"reinforce": 2, "ppo": 1, "dpo": 2}

    judge = f"{model}/reward.py:other"

    def told(begun: bool = False, **changes: Any) -> dict[str, list[str]]:
        changed = replace(asked, **{"judge": judge, **changes})
        return {name.split()[0]: counts for name, *counts in scored(changed, found, runs, begun)}

    assert told() == {
        "training": ["108", "0"],  # 3 runs of 3 iterations of 4 × 3 responses
        "pairs": ["20", "0"],
        "evaluation": ["160", "160"],  # the base, and 5 runs three times: 16 × 5 × 2
        "the": ["128", "128"],  # the base and three arms: 4 × 4 × 8
    }
    assert told(begun=True)["evaluation"] == ["150", "150"]
    tuned = [row for row in scored(replace(asked, tune=2, tune_seeds=3), found, runs) if "tuning" in row[0]]
    # Two arms that sample and one that does not, 6 runs each of 36 responses, evaluated once each and the base.
    assert tuned == [["tuning: training", "432", "0"], ["tuning: evaluation", "190", "0"]]
    for none in (None, asked.reward):  # the reward judges, and is asked once
        assert told(judge=none)["evaluation"] == ["160", "0"]
        assert told(judge=none)["the"] == ["128", "0"]
    assert "pairs" not in told(pairs=f"{model}/pairs.jsonl")
    alone = scored(replace(asked, algos=("dpo",)), found, {"dpo": 2})
    assert [name.split()[0] for name, *_ in alone] == ["pairs", "evaluation", "the"]
    assert "the" not in told(frontier=Frontier(samples=0))
    assert "the" not in told(eval=replace(asked.eval, temperature=0.5))
    assert told(budget="9s")["training"] == ["until the time is up", "0"]
    more = {f"ppo-{i}": {"algorithm": "ppo"} for i in range(6)}
    every = replace(asked, judge=judge, algos=tuple(more), variants=more)
    counts = {name.split()[0]: row for name, *row in scored(every, found, dict.fromkeys(more, 1))}
    assert counts["the"] == ["128", "128"]  # 4 × (8 + 6 × 4)


def test_reward_and_judge_are_asked_for_what_was_told(small: SmallWorld, tmp_path: Path) -> None:
    calls = tmp_path / "calls.txt"
    (tmp_path / "counted.py").write_text(
        "def asked(who, n):\n"
        f"    with open({str(calls)!r}, 'a') as file:\n"
        "        file.write(f'{who} {n}\\n')\n"
        "    return [float(i) for i in range(n)]\n\n"
        "def reward(completions, **_):\n    return asked('reward', len(completions))\n\n"
        "def judge(completions, **_):\n    return asked('judge', len(completions))\n",
        encoding="utf-8",
    )
    own = ["--reward", f"{tmp_path / 'counted.py'}:reward", "--judge", f"{tmp_path / 'counted.py'}:judge"]
    few = ["--eval.prompts", "4", "--frontier.samples", "6", "--seeds", "1", "--budget", "2iterations"]
    arguments = small.arguments(
        tmp_path / "out", *own, *few, "--cache", str(tmp_path / "cache"), "--algos", "reinforce", "dpo"
    )
    assert compared(arguments) == 0
    lines = [line.split() for line in calls.read_text().splitlines()]
    counted = {name: sum(int(n) for who, n in lines if who == name) for name in ("reward", "judge")}
    store = Store.open(tmp_path / "out")
    told = scored(store.experiment, sizes(store.experiment), {"reinforce": 1, "dpo": 1})
    assert counted["reward"] == sum(int(reward.replace(",", "")) for _, reward, _ in told)
    assert counted["judge"] == sum(int(judge.replace(",", "")) for *_, judge in told)
    evaluated, frontier = (
        {name.split()[0]: int(judge) for name, _, judge in told}[row] for row in ("evaluation", "the")
    )
    said = summary.cost(store, evaluations(store)).blocks[-1]
    assert f"Evaluation scored {evaluated} responses, the frontier {frontier} more;" in said.text
