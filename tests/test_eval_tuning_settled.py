"""What tuning chose is written into the experiment: into the arm that it was chosen for, and into no other."""

from __future__ import annotations

from dataclasses import replace

from eval.experiment import Experiment
from eval.tuning.settled import settled


def test_settling_an_arm_changes_no_other() -> None:
    """`low` inherits from ppo what it does not name; ppo's tuning must not reach it."""
    variants = {"low": {"algorithm": "ppo", "beta": 0.01}, "other": {"algorithm": "ppo", "gamma": 0.9}}
    before = Experiment(
        algos=("ppo", "low", "dpo", "other"), variants=variants, tune=2, before_tuning={"other": variants["other"]}
    )  # fmt: skip
    start = {name: before.arm(name) for name in before.untuned}
    chosen = {"ppo": {"clip_range": 0.1, "learning_rate": 1e-4}, "low": {"learning_rate": 1e-5}, "dpo": {}}
    after = settled(before, start, chosen)
    assert after.arms == {
        "ppo": replace(before.arm("ppo"), clip_range=0.1, learning_rate=1e-4),
        "low": before.arm("low"),
        "dpo": before.arm("dpo"),
        "other": before.arm("other"),
    }
    assert after.untuned == ()
    assert Experiment.from_dict(after.to_dict()) == after


def test_what_a_variant_names_is_what_it_named_before_tuning() -> None:
    """Of `low` tuning chose a setting that it names itself, and `other` was written out as ppo changed."""
    variants = {"low": {"algorithm": "ppo", "beta": 0.01}, "other": {"algorithm": "ppo", "gamma": 0.9}}
    search = {"low": {"beta": {"low": 0.001, "high": 0.1}}, "other": {"gamma": {"low": 0.8, "high": 1}}}
    before = Experiment(algos=("ppo", "low", "other"), variants=variants, tune=2, search=search)
    start = {name: before.arm(name) for name in before.algos}
    chosen = {"ppo": {"learning_rate": 1e-4}, "low": {"beta": 0.05}, "other": {"gamma": 0.95}}
    after = settled(before, start, chosen)
    assert after.arm("low").beta == 0.05
    assert after.variants["other"] == {"algorithm": "ppo", "gamma": 0.95, "learning_rate": 1e-5}
    assert after.before_tuning == {**variants, "ppo": {"learning_rate": 1e-5}}
    for name in after.algos:
        assert after.named_by(name) == before.named_by(name)
    more = replace(after, algos=(*after.algos, "dpo"))
    again = settled(more, {"dpo": more.arm("dpo")}, {"dpo": {"beta": 0.2}})
    assert again.before_tuning == {**after.before_tuning, "dpo": {"beta": 0.1}}
