"""What a comparison would run and nominally cost, without running it."""

from __future__ import annotations

from dataclasses import dataclass

from algos import Budget, Sampling
from algos.engine.algorithm import Algorithm
from eval.experiment import Experiment


@dataclass(frozen=True)
class Shape:
    """What nominal cost depends on: parameters of model and reward model, tokens of a prompt and a response."""

    parameters: int
    reward_parameters: int
    prompt_tokens: float
    response_tokens: float


def iteration(algorithm: Algorithm, sampling: Sampling, shape: Shape, lora: bool) -> dict[str, float]:
    """The nominal cost of one iteration in every unit but seconds; see `algos.engine.budget.Meter`."""
    needs = algorithm.needs
    recorded = needs.source == "pairs"
    completions = (
        2 * needs.pairs_per_step if recorded else sampling.prompts_per_iteration * sampling.group_size
    )
    tokens = completions * (shape.prompt_tokens + shape.response_tokens)
    steps = algorithm.passes * algorithm.steps_per_pass
    update = (4 if lora else 6) + (6 if needs.values == "separate" else 0)
    forward = 2 if recorded else 4  # the reference reads every token; sampled ones are also generated
    flops = shape.parameters * tokens * (forward + update * algorithm.passes)
    if not recorded:
        flops += 2 * shape.reward_parameters * tokens
        if needs.greedy:
            flops += 2 * (shape.parameters + shape.reward_parameters) * tokens / sampling.group_size
    return {
        "updates": steps,
        "iterations": 1,
        "completions": completions,
        "generated_tokens": 0 if recorded else completions * shape.response_tokens,
        "trained_tokens": completions * shape.response_tokens * algorithm.passes,
        "flops": flops,
    }


def iterations(
    algorithm: Algorithm, budget: Budget, sampling: Sampling, shape: Shape, lora: bool
) -> float | None:
    """About how many iterations the budget buys; None for a budget of time, or where one costs none of it."""
    each = iteration(algorithm, sampling, shape, lora).get(budget.unit)
    return budget.amount / each if each else None


def rows(experiment: Experiment, shape: Shape, pairs: int | None) -> list[list[str]]:
    """A row an arm: name, algorithm, runs, iterations, completions, FLOPs a run."""
    table = []
    for name, arm in experiment.arms.items():
        count = _iterations(experiment, arm, shape, pairs)
        each = iteration(arm, experiment.sampling, shape, experiment.lora)
        figures = (
            ["until the time is up"] * 3
            if count is None
            else [f"{count:,.0f}", f"{count * each['completions']:,.0f}", f"{count * each['flops']:.2e}"]
        )
        table.append([name, arm.name, str(experiment.seeds), *figures])
    return table


def tuning(experiment: Experiment, shape: Shape, pairs: int | None) -> str:
    """What is run before: nothing, or tries of the arms, whose cost is that of the settings they begin with."""
    if not experiment.untuned:
        return ""
    runs, flops = experiment.tune * experiment.tune_seeds, 0.0
    for name in experiment.untuned:
        arm = experiment.arm(name)
        count = _iterations(experiment, arm, shape, pairs)
        flops += runs * (count or 0) * iteration(arm, experiment.sampling, shape, experiment.lora)["flops"]
    cost = f", about {flops:.2e} FLOPs together" if flops else ""
    return (
        f"tuned first: {', '.join(experiment.untuned)}; {experiment.tune} tries of each, {runs} runs an arm at the same "
        f"budget{cost}"
    )


def _iterations(experiment: Experiment, arm: Algorithm, shape: Shape, pairs: int | None) -> float | None:
    """Of one run: what the budget buys, or less where recorded pairs end before."""
    count = iterations(arm, Budget.parse(experiment.budget), experiment.sampling, shape, experiment.lora)
    if arm.needs.source == "pairs" and pairs is not None:
        own_end = -(-pairs // arm.needs.pairs_per_step) * arm.needs.pair_epochs
        return own_end if count is None else min(count, own_end)
    return count
