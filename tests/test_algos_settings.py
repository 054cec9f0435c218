"""Hyper-parameters: ranges, frozenness; and the shape of the package itself."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_policy

import algos
from algos import ALGORITHMS, DPO, PPO, REINFORCE, Algorithm, Sampling, UserError, train

PACKAGE = Path(algos.__file__).parent


@pytest.mark.parametrize("kind", [REINFORCE, PPO, DPO])
@pytest.mark.parametrize(
    "wrong",
    [
        {"beta": -0.1}, {"learning_rate": 0.0}, {"learning_rate": -1.0}, {"warmup": 1.0}, {"warmup": -0.1},
        {"max_grad_norm": 0.0}, {"weight_decay": -1.0}, {"beta": float("nan")}, {"learning_rate": float("nan")},
        {"learning_rate": float("inf")}, {"beta": float("inf")}, {"weight_decay": float("inf")},
        {"adam_betas": (0.9, 1.0)}, {"adam_betas": (-0.1, 0.9)}, {"adam_betas": (0.9,)}, {"adam_betas": (0.9, float("nan"))},
        {"adam_eps": 0.0}, {"adam_eps": -1e-8}, {"adam_eps": float("nan")}, {"adam_eps": float("inf")},
    ],
)  # fmt: skip
def test_shared_ranges(kind: type[Algorithm], wrong: dict[str, Any]) -> None:
    refused(kind, wrong)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((REINFORCE, wrong) for wrong in ({"ema_decay": 1.0}, {"ema_decay": -0.1}, {"baseline": "none", "scale_by_group_std": True}, {"value_coefficient": -1.0}, {"value_coefficient": float("inf")}, {"value_learning_rate": 0.0})),
        *(
            (PPO, wrong)
            for wrong in (
                {"clip_range": 0.0}, {"clip_range": 1.0}, {"clip_range_high": 0.0}, {"dual_clip": 1.0},
                {"value_clip_range": 0.0}, {"gamma": 1.1}, {"gamma": -0.1}, {"gae_lambda": 1.1}, {"gae_lambda": -0.1},
                {"ppo_epochs": 0}, {"minibatches": 0}, {"value_coefficient": -1.0}, {"kl_target": 0.0},
                {"value_learning_rate": 0.0}, {"value_learning_rate": float("inf")},
                {"kl_horizon": 0.0}, {"kl_horizon": float("inf")}, {"kl_target": float("inf")},
                {"beta": 0.0, "kl_control": "adaptive"},
            )
        ),
        *(
            (DPO, wrong)
            for wrong in (
                {"beta": 0.0}, {"label_smoothing": 0.5}, {"label_smoothing": -0.1}, {"epochs": 0}, {"batch_size": 0},
                {"label_smoothing": 0.1, "loss_type": "hinge"}, {"label_smoothing": 0.1, "loss_type": "ipo"},
            )
        ),
    ],
)  # fmt: skip
def test_own_ranges(kind: type[Algorithm], wrong: dict[str, Any]) -> None:
    refused(kind, wrong)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (REINFORCE, {"baseline": "mean"}), (REINFORCE, {"aggregation": "mean"}), (REINFORCE, {"value_model": "own"}),
        (PPO, {"kl_control": "auto"}), (PPO, {"aggregation": "mean"}), (PPO, {"value_model": "own"}),
        (DPO, {"loss_type": "orpo"}), (PPO, {"schedule": "step"}),
    ],
)  # fmt: skip
def test_unknown_options(kind: type[Algorithm], wrong: dict[str, Any]) -> None:
    """The command line and YAML know the choices; whoever builds the dataclass in Python must hear it too."""
    refused(kind, wrong)


def refused(kind: type[Algorithm], wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        kind(**wrong)
    assert next(iter(wrong)) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ALGORITHMS.values())
def test_an_algorithm_is_a_frozen_value(kind: type[Algorithm]) -> None:
    assert kind() == kind()
    assert hash(kind()) == hash(kind())
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().beta = 1.0  # type: ignore[misc]


PAIRS: list[dict[str, str]] = [{"prompt": "a", "chosen": " b", "rejected": " a"}]
ALONE: dict[str, Any] = {"prompts": None, "reward": None}


def constant(completions: list[str], **_: Any) -> list[float]:
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        (REINFORCE(), {"sampling": Sampling(group_size=1)}, "at least 2 responses"),
        (DPO(), {"sampling": Sampling(group_size=1)}, "at least 2 responses"),
        (PPO(), {"budget": None}, "no budget"),
        (PPO(), {"prompts": None}, "no prompts"),
        (DPO(), {"prompts": None}, "pairs"),
        (PPO(), {"reward": None}, "no reward"),
        (DPO(), {"pairs": [{"prompt": "a", "chosen": " b"}]} | ALONE, "rejected"),
        (DPO(), {"pairs": PAIRS}, "learns from pairs here; got prompts and reward as well"),
        (DPO(), {"pairs": PAIRS, "prompts": None}, "learns from pairs here; got reward as well"),
        (PPO(), {"pairs": PAIRS}, "learns from prompts here; got pairs as well"),
        (DPO(on_policy=True), {"pairs": PAIRS}, "learns from prompts here; got pairs as well"),
        (PPO(), {"reference_cache": "/tmp"}, "got reference_cache as well"),
        (DPO(epochs=3), {}, "epochs is about recorded pairs; got 3, and prompts alone"),
        (DPO(batch_size=4), {}, "batch_size is about recorded pairs; got 4, and prompts alone"),
        (PPO(), {"budget": "5epochs"}, "epochs"),
    ],
)  # fmt: skip
def test_what_a_caller_can_get_wrong_is_one_line(
    algorithm: Algorithm, options: dict[str, Any], message: str
) -> None:
    arguments = {
        "prompts": ["a"],
        "reward": constant,
        "budget": "1iterations",
        "sampling": Sampling(max_new_tokens=4),
    } | options
    with pytest.raises(UserError, match=message) as caught:
        train(algorithm, tiny_policy(), **arguments)
    assert "\n" not in str(caught.value)


# The package -------------------------------------------------------------------------------------------


def test_every_public_name_is_there_and_can_be_completed() -> None:
    assert set(algos.__all__) <= set(dir(algos))
    assert all(getattr(algos, name) is not None for name in algos.__all__)
    for name in ("Algorithm", "Hook", "Needs", "Outputs", "Rollouts", "State", "TrainState"):
        assert name in algos.__all__
    assert not hasattr(algos, "Trainer")


def test_settings_are_read_without_a_model() -> None:
    """And completed: what needs transformers, which takes seconds, is loaded when it is asked for."""
    script = "import sys, algos; dir(algos); algos.PPO, algos.Needs, algos.Rollouts; print('transformers' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("package", ["algos", "eval"])
def test_type_checkers_are_told_that_there_are_types(package: str) -> None:
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    assert "py.typed" in settings["package-data"][package]
    assert (PACKAGE.parent / package / "py.typed").is_file()


# The house ---------------------------------------------------------------------------------------------


def code_lines(file: Path) -> int:
    """Lines that hold code: neither blank, nor comments, nor docstrings."""
    source = file.read_text(encoding="utf-8")
    prose: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            prose.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(1 for n, line in lines if n not in prose and line.strip() and not line.strip().startswith("#"))


@pytest.mark.parametrize("name", ["reinforce", "ppo", "dpo"])
def test_an_algorithm_is_a_short_file(name: str) -> None:
    assert code_lines(PACKAGE / f"{name}.py") < 150


def test_files_stay_small() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 275, file
