"""What tuning may try: declared for every algorithm, from YAML, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from algos import ALGORITHMS, DPO, UserError
from eval.experiment import Experiment
from eval.settings.layers import layered, plain
from eval.tuning.search import Choices, Range, space


def experiment(**values: Any) -> Experiment:
    return Experiment.from_dict(layered({"tune": 2, **values}))


def test_every_algorithm_has_as_much_to_choose_from_and_begins_inside() -> None:
    asked = experiment()
    for name in ALGORITHMS:
        space, arm = asked.space(name), asked.arm(name)
        assert list(space)[:2] == ["learning_rate", "beta"]
        assert len(space) == 3
        assert all(getattr(arm, setting) in values for setting, values in space.items())


def test_ranges_lie_around_the_arms_own_settings() -> None:
    asked = experiment(ppo={"learning_rate": 3e-4, "ppo_epochs": 3}, dpo={"beta": 0.3})
    assert asked.space("ppo") == {
        "learning_rate": Range(3e-5, 3e-3, log=True),
        "beta": Range(0.005, 0.5, log=True),
        "ppo_epochs": Range(1, 12, log=True),
    }
    assert plain(asked.space("dpo")["beta"]) == {"low": 0.03, "high": 3.0, "log": True}
    assert asked.space("dpo")["epochs"] == Range(1, 4, log=True)
    assert list(experiment(dpo={"on_policy": True}).space("dpo")) == [
        "learning_rate",
        "beta",
    ]  # it has no epochs
    assert "baseline" not in experiment(reinforce={"scale_by_group_std": True}).space(
        "reinforce"
    )  # it has no other
    assert "beta" not in experiment(ppo={"beta": 0}).space("ppo")  # 0 has no surroundings on a log scale
    assert asked.space("reinforce")["baseline"] == Choices(("leave_one_out", "batch_mean", "ema"))
    assert experiment(reinforce={"baseline": "value"}).space("reinforce")["baseline"] == Choices(
        ("value", "leave_one_out", "batch_mean", "ema")
    )


def test_a_whole_number_begins_the_range_of_a_setting_that_takes_others() -> None:
    """From Python, where 1 is not made 1.0 as from YAML and the command line."""
    assert space(DPO(beta=1), None, (), "dpo") == space(DPO(beta=1.0), None, (), "dpo")
    assert space(DPO(beta=1), None, (), "dpo")["beta"] == Range(0.1, 10.0, log=True)


def test_yaml_goes_before_what_is_declared_and_an_arm_before_its_algorithm() -> None:
    search = {
        "ppo": {"clip_range": {"choices": [0.1, 0.2]}, "ppo_epochs": {"low": 1, "high": 8}, "beta": {"low": "1e-3", "high": 1}},
        "wide": {"beta": {"low": 0.001, "high": 10, "log": True}},
    }  # fmt: skip
    variants = {"wide": {"algorithm": "ppo", "beta": 0.2}, "low": {"algorithm": "ppo", "beta": 0.01}}
    asked = experiment(algos=["ppo", "wide", "low", "dpo"], variants=variants, search=search)
    assert asked.space("ppo") == {
        "clip_range": Choices((0.1, 0.2)), "ppo_epochs": Range(1, 8), "beta": Range(0.001, 1.0),
    }  # fmt: skip
    assert asked.space("wide") == {"beta": Range(0.001, 10, log=True)}
    assert list(asked.space("low")) == ["clip_range", "ppo_epochs"]  # a variant stands for what it names
    assert list(asked.space("dpo")) == ["learning_rate", "beta", "epochs"]
    assert Experiment.from_dict(asked.to_dict()) == asked


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search": {"ppo": {"clip_rang": {"low": 0.1, "high": 0.3}}}}, r"'search\.ppo\.clip_rang'; did you mean 'clip_range'\?"),
        ({"search": {"ppo": {"clip_range": {"low": 0.1, "hihg": 0.3}}}}, r"'search\.ppo\.clip_range\.hihg'; did you mean 'high'\?"),
        ({"search": {"ppo": {"clip_range": {"low": 0.1, "high": 1.5}}}}, r"clip_range must be in \(0, 1\); got 1\.5"),
        ({"search": {"ppo": {"clip_range": {"low": 0.3, "high": 0.1}}}}, r"low must be below high; got 0\.3 … 0\.1"),
        ({"search": {"ppo": {"beta": {"low": 0, "high": 1, "log": True}}}}, r"low must be above 0 on a log scale"),
        ({"search": {"ppo": {"clip_range": 0.3}}}, r"search\.ppo\.clip_range takes values by name; got 0\.3"),
        ({"search": {"ppo": {"clip_range": {"choices": [0.1]}}}}, r"choices must be at least 2; got 1"),
        ({"search": {"ppo": {"kl_control": {"low": 0, "high": 1}}}}, r"search\.ppo\.kl_control is not a number"),
        ({"search": {"ppo": {"whiten_rewards": {"low": 0, "high": 1}}}}, r"search\.ppo\.whiten_rewards is not a number"),
        ({"search": {"ppo": {"ppo_epochs": {"low": 0.5, "high": 8}}}}, r"ppo_epochs low and high must be whole numbers"),
        ({"search": {"ppo": {"kl_control": {"choices": ["fixed", "none"]}}}}, r"kl_control: Input should be.*got 'none'"),
        ({"search": {"ppo": {"clip_range": {"low": 0.3, "high": 0.4}}}}, r"search\.ppo\.clip_range must hold 0\.2.*tried first"),
        ({"search": {"dpo": {"on_policy": {"choices": [False, True]}}}}, r"would change what dpo learns from \(pairs or prompts\)"),
        ({"sampling": {"group_size": 1}, "reinforce": {"baseline": "ema"}}, r"reinforce needs at least 2 responses a prompt; got 1"),
        ({"algos": ["x"], "variants": {"x": {"algorithm": "ppo", "beta": 1, "learning_rate": 1, "ppo_epochs": 1}}},
         r"nothing is left to tune of x: it sets beta, learning_rate, ppo_epochs itself"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        experiment(**values)
    assert "\n" not in str(caught.value)


def test_nothing_is_checked_of_arms_that_are_not_tuned() -> None:
    search = {"ppo": {"clip_range": {"low": 0.3, "high": 0.4}}}
    assert experiment(tune=0, search=search).untuned == ()
    assert experiment(before_tuning={"ppo": {}}, search=search).untuned == ("reinforce", "dpo")
