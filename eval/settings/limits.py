"""The most that a setting may ask for: far above any use, and below what fills memory before anything is said of it."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from algos import Algorithm, Budget, UserError
from eval.settings.bounded_yaml import MAX_VALUES

TRIES = 400
"""Of all arms together, however long their names: each is an arm of the comparison of tries, whose experiment.yaml must be
read back."""
EXPERIMENT: Mapping[str, int] = {
    "seeds": 10_000,
    "first_seed": 10**9,
    "data_seed": 10**9,
    "sampled_pairs": 10**7,
    "sampling.max_new_tokens": 10**6,
    "sampling.group_size": 10_000,
    "sampling.prompts_per_iteration": 10**6,
    "eval.prompts": 10**6,
    "eval.responses": 10_000,
    "eval.points": 10_000,
    "eval.batch_size": 10**6,
    "frontier.prompts": 10**6,
    "frontier.samples": 10**6,
    "reward_model.epochs": 10_000,
    "reward_model.batch_size": 10**6,
    "lora_settings.rank": 10**6,
    "micro_batch": 10**6,
    "threads_per_run": 1024,
    "tune": TRIES,
    "tune_seeds": 10_000,
    "reward_timeout": 10**7,
    "reward_retries": 10_000,
    "checkpoint_every": 10**7,
}
ARM: Mapping[str, int] = {"epochs": 10_000, "ppo_epochs": 10_000, "batch_size": 10**6, "minibatches": 10**6}
BUDGET: Mapping[str, float] = {
    "updates": 1e9,
    "iterations": 1e9,
    "completions": 1e12,
    "generated_tokens": 1e15,
    "trained_tokens": 1e15,
    "flops": 1e30,
    "seconds": 1e9,
}
TRIED = MAX_VALUES - 1_000
"""Values that tries may take of that file."""
ARMS = 1_000
RUNS = 100_000
CORNERS = 10_000
"""Combinations of the ends of what tuning may try: each is built once, to see that its algorithm takes it."""
WORKERS = 1024
TUNING_SEED = 1_000_000
"""The first training seed of tuning's runs: no run of a comparison that tunes has it or one above it."""


def check_limits(experiment: Any) -> None:
    """Raises UserError naming the setting and its limit."""
    for name, most in EXPERIMENT.items():
        at_most(attrgetter(name)(experiment), most, name)
    at_most(len(experiment.algos), ARMS, "the number of arms")
    at_most(len(experiment.algos) * experiment.seeds, RUNS, "the number of runs (arms × seeds)")
    budget = Budget.parse(experiment.budget)
    at_most(budget.amount, BUDGET[budget.unit], f"a budget in {budget.unit}")


def check_tries(arms: int, tries: int, seeds: int, settings: int) -> None:
    """Of tuning: so many tries an arm, each a training run a seed, written down with at most so many settings. Those of arms
    that were tuned before stay in the same file."""
    # A name among the arms; and a variant: its name, a mapping, and in it the algorithm and the settings, each with its key.
    written = 5 + 2 * settings
    most = min(TRIES, TRIED // written)
    at_most(arms * tries, most, f"the number of tries (arms × --tune, with {settings} settings each)")
    at_most(arms * tries * seeds, RUNS, "the number of tuning's runs (arms × --tune × --tune-seeds)")


def check_arm(name: str, arm: Algorithm) -> None:
    """The same of one arm's settings."""
    for setting, most in ARM.items():
        at_most(getattr(arm, setting, 0), most, f"{name}.{setting}")


def at_most(value: float, most: float, what: str) -> None:
    """Raises UserError where a value is more, or is no number."""
    if not value <= most:
        raise UserError(f"{what} must be at most {most:,}; got {reprlib.repr(value)}. Give less.")
