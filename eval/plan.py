"""What a comparison would run and nominally cost, without running it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from algos import Budget
from algos.engine.algorithm import Algorithm
from eval.experiment import Experiment


@dataclass(frozen=True)
class Sizes:
    """What nominal cost and memory depend on: parameters of the model, of it without its head, of reward model
    and of a judge beside it, tokens of a prompt (the mean, and the longest) and a response, recorded pairs."""

    parameters: int
    trunk_parameters: int
    reward_parameters: int
    judge_parameters: int
    prompt_tokens: float
    longest_prompt: int
    response_tokens: float
    adapters: bool = False
    """Whether adapters alone are trained, fresh or saved ones."""
    pairs: int | None = None
    """That DPO learns from, those among them that do not fit the model; None where they were not counted."""

    @property
    def scorer_parameters(self) -> int:
        """Of the reward model and the judge together, which every run holds."""
        return self.reward_parameters + self.judge_parameters


def iteration(algorithm: Algorithm, experiment: Experiment, sizes: Sizes) -> dict[str, float]:
    """The nominal cost of one iteration in every unit but seconds, of recorded pairs in their first epoch: what
    `algos.engine.budget.Meter` counts where every text is as long as `sizes` says."""
    needs, sampling = algorithm.needs, experiment.sampling
    recorded = needs.source == "pairs"
    P = needs.pairs_per_step if recorded else sampling.prompts_per_iteration
    trained = P * (2 if recorded else sampling.group_size)
    sampled = 0 if recorded else trained + P * needs.greedy
    text = sizes.prompt_tokens + sizes.response_tokens
    flops = _reference(algorithm, experiment, sizes)
    flops += 2 * (sizes.parameters + sizes.reward_parameters) * sampled * text
    flops += _update(algorithm, experiment, sizes) * needs.passes * trained * text
    return {
        "updates": needs.passes * needs.steps_per_pass,
        "iterations": 1,
        "completions": trained if recorded else sampled,
        "generated_tokens": sampled * sizes.response_tokens,
        "trained_tokens": trained * sizes.response_tokens * needs.passes,
        "flops": flops,
    }


def _update(algorithm: Algorithm, experiment: Experiment, sizes: Sizes) -> float:
    """FLOPs a token of a forward and backward pass, the critic's own trunk included."""
    again = 2 if experiment.gradient_checkpointing else 0
    own = sizes.trunk_parameters if algorithm.needs.values == "separate" else 0
    return ((4 if sizes.adapters else 6) + again) * (sizes.parameters + own)


def _reference(algorithm: Algorithm, experiment: Experiment, sizes: Sizes) -> float:
    """FLOPs of the reference in an iteration that it reads."""
    needs, sampling = algorithm.needs, experiment.sampling
    recorded = needs.source == "pairs"
    texts = 2 * needs.pairs_per_step if recorded else sampling.prompts_per_iteration * sampling.group_size
    return 2 * sizes.parameters * texts * (sizes.prompt_tokens + sizes.response_tokens)


def iterations(algorithm: Algorithm, experiment: Experiment, sizes: Sizes) -> int | None:
    """About how many iterations a run has: those until the budget is reached, which a run ends above rather than below, or
    less where recorded pairs end before.

    None for a budget of time, or where one iteration costs none of it.
    """
    budget = Budget.parse(experiment.budget)
    each = iteration(algorithm, experiment, sizes).get(budget.unit)
    count = budget.amount / each if each else math.inf
    if algorithm.needs.source == "pairs" and sizes.pairs is not None:
        an_epoch = _an_epoch(algorithm, sizes.pairs)
        if each and budget.unit == "flops" and count > an_epoch:
            later = each - _reference(algorithm, experiment, sizes)
            count = an_epoch + (budget.amount - an_epoch * each) / later
        count = min(count, an_epoch * algorithm.needs.pair_epochs)
    # Rounding of the quotient must not buy another iteration.
    return max(1, math.ceil(count - 1e-9)) if math.isfinite(count) else None


def _an_epoch(algorithm: Algorithm, pairs: int) -> int:
    return math.ceil(pairs / algorithm.needs.pairs_per_step)


def flops(algorithm: Algorithm, experiment: Experiment, sizes: Sizes, count: float) -> float:
    """Nominal FLOPs of so many iterations. The reference reads recorded pairs in their first epoch alone."""
    total = count * iteration(algorithm, experiment, sizes)["flops"]
    if algorithm.needs.source == "pairs" and sizes.pairs is not None:
        again = max(0.0, count - _an_epoch(algorithm, sizes.pairs))
        total -= again * _reference(algorithm, experiment, sizes)
    return total


def rows(experiment: Experiment, sizes: Sizes, runs: Mapping[str, int]) -> list[list[str]]:
    """A row an arm: name, algorithm, its `runs` to be made, and iterations, completions, FLOPs of one of them."""
    table = []
    for name, arm in experiment.arms.items():
        count = iterations(arm, experiment, sizes)
        figures = ["until the time is up"] * 3
        if count is not None:
            completions = count * iteration(arm, experiment, sizes)["completions"]
            cost = flops(arm, experiment, sizes, count)
            figures = [f"{count:,}", f"{completions:,.0f}", f"{cost:.2e}"]
        table.append([name, arm.name, str(runs[name]), *figures])
    return table


def scored(
    experiment: Experiment, sizes: Sizes, runs: Mapping[str, int], begun: bool = False
) -> list[list[str]]:
    """A row for everything that has responses scored: what it is, how many the reward and how many the judge is asked for.
    Every one may be a call that is paid for.

    Of a small file fewer prompts are evaluated; of a comparison that was `begun` the base is evaluated already. What a
    pairwise judge is asked for every two arms' answers is not among them.
    """
    evaluation, frontier = experiment.eval, experiment.frontier
    at_once = evaluation.prompts * evaluation.responses
    tries = dict.fromkeys(experiment.untuned, experiment.tune * experiment.tune_seeds)
    tried = at_once * (1 + sum(tries.values())) if tries else 0
    evaluated = at_once * (evaluation.points * sum(runs.values()) + (not begun))
    arms = len(experiment.algos)
    pool = frontier.prompts * (frontier.samples + arms * frontier.each(arms)) if evaluation.is_plain else 0
    found = [
        ("tuning: training", _sampled(experiment, sizes, tries), 0),
        ("tuning: evaluation", tried, tried),
        ("training", _sampled(experiment, sizes, runs), 0),
        ("pairs for DPO", 2 * experiment.sampled_pairs if experiment.samples_pairs else 0, 0),
        ("evaluation", evaluated, evaluated),
        ("the frontier (none with --frontier.samples 0)", pool, pool),
    ]
    # A reward that judges too is asked once.
    return [
        [
            name,
            "until the time is up" if reward is None else f"{reward:,.0f}",
            f"{0 if experiment.reward_judges else judge:,.0f}",
        ]
        for name, reward, judge in found
        if reward is None or reward
    ]


def _sampled(experiment: Experiment, sizes: Sizes, runs: Mapping[str, int]) -> float | None:
    """Responses that so many runs of each arm draw; None where only the clock ends them."""
    total = 0.0
    for name, count in runs.items():
        arm = experiment.arm(name)
        if arm.needs.source == "prompts" and count:
            each = iterations(arm, experiment, sizes)
            if each is None:
                return None
            total += count * each * iteration(arm, experiment, sizes)["completions"]
    return total


def tuning(experiment: Experiment, sizes: Sizes) -> str:
    """What is run before: nothing, or tries of the arms, whose cost is that of the settings they begin with."""
    if not experiment.untuned:
        return ""
    runs, total = experiment.tune * experiment.tune_seeds, 0.0
    for name in experiment.untuned:
        arm = experiment.arm(name)
        count = iterations(arm, experiment, sizes)
        total += runs * flops(arm, experiment, sizes, count or 0)
    cost = f", about {total:.2e} FLOPs together" if total else ""
    return (
        f"tuned first: {', '.join(experiment.untuned)}; {experiment.tune} tries of each, {runs} runs an arm at the same "
        f"budget{cost}"
    )
