"""Sweeps: what they are read from, the arms they make, what they leave alone, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from algos import UserError
from eval.experiment import Experiment
from eval.settings.layers import layered
from eval.settings.sweep import expanded, read_sweeps
from eval.tuning.settled import settled
from run_compare import parse


def swept(*texts: str, **values: Any) -> Experiment:
    return expanded(Experiment.from_dict(layered(values)), read_sweeps({}, texts))[0]


def test_every_value_is_an_arm_algorithm_by_algorithm() -> None:
    found = swept("beta=0.05,0.1")
    assert found.algos == (
        "reinforce-beta-0.05", "reinforce-beta-0.1", "ppo-beta-0.05", "ppo-beta-0.1", "dpo-beta-0.05", "dpo-beta-0.1",
    )  # fmt: skip
    assert found.variants["ppo-beta-0.05"] == {"algorithm": "ppo", "beta": 0.05}
    assert [arm.beta for arm in found.arms.values()] == [0.05, 0.1] * 3
    assert {arm.name for arm in found.arms.values()} == {"reinforce", "ppo", "dpo"}


def test_several_sweeps_are_every_combination_in_the_order_the_algorithm_declares() -> None:
    found = swept("ppo.clip-range=0.1,0.3", "beta=0.1,0.2", algos=["ppo", "dpo"])
    assert found.algos == (
        "ppo-beta-0.1-clip-range-0.1", "ppo-beta-0.1-clip-range-0.3", "ppo-beta-0.2-clip-range-0.1", "ppo-beta-0.2-clip-range-0.3",
        "dpo-beta-0.1", "dpo-beta-0.2",
    )  # fmt: skip
    arm = found.arms["ppo-beta-0.2-clip-range-0.1"]
    assert (arm.beta, arm.clip_range) == (0.2, 0.1)


def test_a_sweep_of_one_algorithm_goes_before_one_of_all() -> None:
    found = swept("dpo.beta=1,3", "beta=0.1", algos=["ppo", "dpo"])
    assert found.algos == ("ppo-beta-0.1", "dpo-beta-1", "dpo-beta-3")


def test_values_are_of_the_settings_own_type() -> None:
    found = swept(
        "learning_rate=1e-5,0.0010,1", "ppo.ppo_epochs=2", "ppo.kl_control=fixed,adaptive", algos=["ppo"]
    )
    assert found.algos[:2] == (
        "ppo-learning-rate-1e-5-ppo-epochs-2-kl-control-fixed",
        "ppo-learning-rate-1e-5-ppo-epochs-2-kl-control-adaptive",
    )
    assert [found.arms[name].learning_rate for name in found.algos[::2]] == [1e-5, 1e-3, 1.0]
    assert swept("ppo.dual_clip=null,3", algos=["ppo"]).algos == ("ppo-dual-clip-none", "ppo-dual-clip-3")
    assert swept("reinforce.baseline=none,ema", algos=["reinforce"]).variants["reinforce-baseline-none"] == {
        "algorithm": "reinforce", "baseline": "none",
    }  # fmt: skip


def test_who_has_no_such_setting_stays_and_it_is_said() -> None:
    experiment = Experiment()
    found, said = expanded(experiment, read_sweeps({}, ["clip_range=0.1,0.3"]))
    assert found.algos == ("reinforce", "ppo-clip-range-0.1", "ppo-clip-range-0.3", "dpo")
    assert said == ("no clip_range to sweep in reinforce, dpo",)
    assert expanded(experiment, read_sweeps({}, ["ppo.clip_range=0.1,0.3"]))[1] == ()


def test_a_variant_keeps_the_settings_it_stands_for() -> None:
    values = {"algos": ["ppo", "low"], "variants": {"low": {"algorithm": "ppo", "beta": 0.01}}}
    found, said = expanded(Experiment.from_dict(values), read_sweeps({}, ["beta=0.1,0.2"]))
    assert found.algos == ("ppo-beta-0.1", "ppo-beta-0.2", "low")
    assert said == ("low keeps the beta of its own",)
    others = swept("clip_range=0.1", **values)
    assert others.variants["low-clip-range-0.1"] == {"algorithm": "ppo", "beta": 0.01, "clip_range": 0.1}
    assert swept("low.beta=0.5", **values).algos == ("ppo", "low-beta-0.5")


def test_sweeping_again_adds_values_and_keeps_what_is_there() -> None:
    once = swept("beta=0.1,0.2", algos=["ppo", "dpo"])
    kept = {**once.variants["ppo-beta-0.1"], "learning_rate": 0.5}  # as tuning writes it
    stored = Experiment.from_dict(once.to_dict() | {"variants": {**once.variants, "ppo-beta-0.1": kept}})
    again, _ = expanded(stored, read_sweeps({}, ["beta=0.1,0.3"]))
    assert again.algos == ("ppo-beta-0.1", "ppo-beta-0.3", "dpo-beta-0.1", "dpo-beta-0.3")
    assert again.variants["ppo-beta-0.1"] == kept
    both, _ = expanded(once, read_sweeps({}, ["ppo.clip_range=0.1"]))
    assert both.algos[:2] == ("ppo-beta-0.1-clip-range-0.1", "ppo-beta-0.2-clip-range-0.1")


VARIANTS = {
    "small": {"algorithm": "ppo", "clip_range": 0.1},
    "searched": {"algorithm": "ppo", "beta": 0.3},
    "ppo-beta-0.1": {"algorithm": "ppo", "beta": 0.1},
}


def before_and_after_tuning() -> tuple[Experiment, Experiment]:
    """For `searched`, the user has tuning choose a setting that the variant names."""
    search = {"searched": {"beta": {"low": 0.1, "high": 1.0}}}
    algos = ("reinforce", *VARIANTS)
    before = Experiment(algos=algos, variants=VARIANTS, tune=2, tune_seeds=1, search=search)
    best = {"learning_rate": 3e-5, "ppo_epochs": 2}
    chosen = {
        "reinforce": {"learning_rate": 3e-5, "beta": 0.2},
        "small": {**best, "beta": 0.2},
        "searched": {"beta": 0.7},
        "ppo-beta-0.1": best,
    }
    return before, settled(before, {name: before.arm(name) for name in algos}, chosen)


@pytest.mark.parametrize(
    "texts",
    [
        ["small.beta=0.5"],
        ["beta=0.5"],
        ["beta=0.1,0.5"],
        ["learning_rate=1e-4"],
        ["beta=0.1,0.5", "learning_rate=1e-4"],
        ["searched.learning_rate=1e-4"],
        ["ppo.ppo_epochs=1"],
    ],
)
def test_a_sweep_of_tuned_arms_makes_the_arms_that_it_made_before_tuning(texts: list[str]) -> None:
    (before, said), (after, said_after) = (
        expanded(each, read_sweeps({}, texts)) for each in before_and_after_tuning()
    )
    assert (after.algos, said_after) == (before.algos, said)
    new = [name for name in after.algos if name not in VARIANTS]
    assert [after.variants.get(name) for name in new] == [before.variants.get(name) for name in new]
    assert set(after.untuned) == set(new) - {"reinforce"}


def test_without_tuning_a_swept_arm_has_the_rest_of_what_was_chosen() -> None:
    repeated = replace(before_and_after_tuning()[1], tune=0)
    (arm,) = expanded(replace(repeated, algos=("small",)), read_sweeps({}, ["beta=0.5"]))[0].arms.values()
    assert arm == replace(repeated.arm("small"), beta=0.5)


def test_what_is_written_down_is_read_back() -> None:
    found = swept("beta=0.1,0.2", "learning_rate=1e-5,3e-5")
    assert Experiment.from_dict(yaml.safe_load(yaml.safe_dump(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["bta=0.1"], r"unknown setting 'bta' in sweep bta; did you mean 'beta'\?"),
        (["ppo.clip_rang=0.1"], r"'clip_rang' in sweep ppo\.clip_rang; did you mean 'clip_range'\?"),
        (["dpo.clip_range=0.1"], r"unknown setting 'clip_range' in sweep dpo\.clip_range"),
        (["pqo.beta=0.1"], r"unknown algorithm 'pqo' in sweep pqo\.beta; did you mean 'ppo'\?"),
        (["ppo.clip_range=0.1,2"], r"clip_range must be in \(0, 1\); got 2"),
        (["beta=0.1,much"], r"beta: .*valid number.*got 'much'"),
        (["ppo.ppo_epochs=1.5"], r"ppo_epochs: .*integer.*got 1.5"),
        (["ppo.kl_control=none"], r"kl_control: Input should be 'fixed' or 'adaptive'; got 'none'"),
        (["beta=0.1,0.10"], r"sweep beta has 0\.1 twice"),
        (["beta=0.1", "beta=0.2"], r"beta is swept twice"),
        (["beta"], r"--sweep takes a setting and its values, such as beta=0\.05,0\.1; got 'beta'"),
        (["beta=0.1,"], r"has a value that is empty"),
        (["beta=[0.1"], r"cannot read the values"),
        (["reinforce.beta=0.1"], r"sweep reinforce\.beta concerns none of the arms ppo, dpo"),
        (["dpo.loss_type=ipo", "dpo.label_smoothing=0.1"], r"label_smoothing must be 0 for loss_type ipo"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        swept(*texts, algos=["ppo", "dpo"])
    assert "\n" not in str(caught.value)


def test_an_arm_of_the_same_name_and_other_settings_is_in_the_way() -> None:
    taken = {"ppo-beta-0.1": {"algorithm": "dpo", "beta": 0.1}}
    with pytest.raises(UserError, match=r"another variant of this name"):
        swept("beta=0.1", algos=["ppo"], variants=taken)


def test_yaml_and_command_line(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(
        "algos: [ppo]\nsweep:\n  beta: [0.1, 0.2]\n  ppo.clip_range: [0.1]\n  adam_betas: [[0.9, 0.95]]\n",
        encoding="utf-8",
    )
    found = parse(
        ["--config", str(file), "--sweep", "beta=0.3", "--sweep", "gamma=0.9", "ppo.gae-lambda=0.8"]
    )
    assert found.experiment.algos == (
        "ppo-beta-0.3-adam-betas-0.9-0.95-clip-range-0.1-gamma-0.9-gae-lambda-0.8",
    )
    assert next(iter(found.experiment.arms.values())).adam_betas == (0.9, 0.95)
    for text, message in (
        ("sweep: 3\n", "must hold values by setting"),
        ("sweep: {beta: 3}\n", "must be a list"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            parse(["--config", str(file)])
