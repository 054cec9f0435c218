"""Absurd settings are refused at once, by a line that names the limit."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest

from algos import UserError
from eval.experiment import Experiment
from eval.settings import limits
from eval.settings.arguments import parse
from eval.settings.layers import layered

HUGE = 10**18


def nested(name: str, value: Any) -> dict[str, Any]:
    """`a.b` and a value as settings."""
    first, _, rest = name.partition(".")
    return {first: nested(rest, value) if rest else value}


@pytest.mark.parametrize("name", limits.EXPERIMENT)
def test_every_limit_holds_and_lets_its_own_value_pass(name: str) -> None:
    most = limits.EXPERIMENT[name]
    with pytest.raises(UserError, match=rf"{name} must be at most {most:,}; got {most + 1}"):
        Experiment.from_dict(nested(name, most + 1))
    Experiment.from_dict(layered(nested(name, most), {"algos": ["ppo"]}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ppo": {"ppo_epochs": HUGE}}, r"ppo\.ppo_epochs must be at most 10,000"),
        ({"ppo": {"minibatches": HUGE}}, r"ppo\.minibatches must be at most"),
        ({"dpo": {"epochs": HUGE}}, r"dpo\.epochs must be at most"),
        ({"algos": ["x"], "variants": {"x": {"algorithm": "dpo", "batch_size": HUGE}}}, r"x\.batch_size must be at most"),
        ({"tune": 2, "search": {"dpo": {"epochs": {"low": 1, "high": HUGE}}}}, r"search\.dpo\.epochs must be at most"),
        ({"seeds": 10_000, "algos": [f"v{i}" for i in range(11)], "variants": {f"v{i}": {"algorithm": "ppo"} for i in range(11)}},
         r"runs \(arms × seeds\) must be at most 100,000; got 110000"),
        ({"budget": "1e300iterations"}, r"a budget in iterations must be at most"),
        ({"budget": "1e40flops"}, r"a budget in flops must be at most"),
        ({"checkpoint_every": float("nan")}, r"checkpoint_every must be at most"),
        ({"reward_timeout": float("inf")}, r"reward_timeout must be at most"),
        ({"data_seed": -1}, r"data_seed must be at least 0; got -1"),
    ],
)  # fmt: skip
def test_so_do_those_of_arms_budgets_and_what_multiplies(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Experiment.from_dict(layered(values))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seeds", str(10**9)],
        ["--first-seed", "9" * 100],
        ["--workers", str(10**9)],
        ["--frontier.samples", str(10**12)],
        [part for name in ("beta", "gamma", "clip_range", "gae_lambda") for part in
         ("--sweep", f"ppo.{name}={','.join(f'0.{i}' for i in range(101, 200))}")],
    ],
)  # fmt: skip
def test_nothing_is_made_before_they_are_refused(arguments: list[str]) -> None:
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(UserError, match="must be at most") as caught:
        parse(arguments)
    assert time.perf_counter() - started < 5
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    assert len(str(caught.value)) < 200


def test_a_search_of_too_many_corners_is_refused() -> None:
    choices = {"choices": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]}
    names = ("clip_range", "gamma", "gae_lambda", "value_coefficient", "weight_decay")
    start = dict.fromkeys(names, 0.5)
    with pytest.raises(UserError, match=r"combinations .* of search\.ppo must be at most 10,000; got 100000"):
        Experiment.from_dict(
            layered(
                {"algos": ["ppo"], "tune": 1, "ppo": start, "search": {"ppo": dict.fromkeys(names, choices)}}
            )
        )
