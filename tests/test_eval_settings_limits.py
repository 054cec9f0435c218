"""Absurd settings are refused at once, by a line that names the limit."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from algos import PPO, UserError
from eval.experiment import Experiment
from eval.settings import limits
from eval.settings.arguments import parse
from eval.settings.layers import layered, plain
from eval.store import Store
from eval.tuning.search import name_of
from eval.tuning.tries import next_settings
from eval.tuning.tune import _arms, _comparison_of_tries

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
    Experiment.from_dict(layered(nested(name, most), {"algos": ["ppo"], "task": "custom"}))


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
        ({"tune": 134}, r"tries \(arms × --tune, with 3 settings each\) must be at most 400; got 402"),
        ({"tune": 2, "tune_seeds": 10_000, "algos": [f"v{i}" for i in range(6)], "variants": {f"v{i}": {"algorithm": "ppo"} for i in range(6)}},
         r"tuning's runs \(arms × --tune × --tune-seeds\) must be at most 100,000; got 120000"),
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


@pytest.mark.parametrize("whole", [False, True], ids=["default settings", "all settings"])
def test_the_most_that_tuning_may_try_is_read_back(tmp_path: Path, whole: bool) -> None:
    """Whatever its arms are called and name themselves: a file that is too long would be noticed after hours."""
    settings = {"algorithm": "ppo"} | (plain(PPO(learning_rate=1.2345678901234567e-05)) if whole else {})
    settings.pop("gamma", None)  # the one that is left to tune
    searched = {"ppo": {"gamma": {"choices": [1.0, 0.9]}}} if whole else {}
    most = 9_000 // (5 + 2 * len(plain(PPO()))) if whole else 400
    names = [letter * 140 for letter in "ab"]
    asked = {
        "algos": names,
        "variants": dict.fromkeys(names, settings),
        "tune": most // 2,
        "search": searched,
    }
    experiment = Experiment.from_dict(asked)
    with pytest.raises(UserError, match=f"must be at most {most}"):
        Experiment.from_dict(asked | {"tune": most // 2 + 1})
    arms = _arms(experiment, experiment.untuned)
    tuning = Store.create(tmp_path / "tuning", _comparison_of_tries(experiment, arms))
    tries = range(1, most // 2 + 1)
    first = {arm.name: arm.variant(next_settings(arm.start, arm.name, 1, arm.space, ())) for arm in arms}
    variants = {name_of(name, number): own for name, own in first.items() for number in tries}
    tuning.commit(replace(tuning.experiment, algos=tuple(variants), variants=variants))
    assert len(Store.open(tuning.path).experiment.algos) == 2 * (most // 2)


def test_a_comparison_that_could_not_be_read_again_is_not_begun(tmp_path: Path) -> None:
    names = [f"v{i}" for i in range(900)]
    own = {"algorithm": "ppo", "beta": 0.1, "gamma": 0.9, "clip_range": 0.1}
    experiment = Experiment(algos=tuple(names), variants=dict.fromkeys(names, own), seeds=1)
    with pytest.raises(
        UserError, match=r"could not be read again: it has \d+ values, more than 10000\. Compare fewer"
    ):
        Store.create(tmp_path / "out", experiment)
    assert not (tmp_path / "out" / "experiment.yaml").exists()
