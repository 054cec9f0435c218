"""Whose β is the coefficient of the objective that the arms are compared by, whose is not, and why."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from report_cases import told_by, with_facts, with_settings
from report_world import ARMS, World, world

from eval.report.caveats import validity
from eval.report.numbers import objectives


def test_labels_under_which_beta_is_not_the_objectives(clean: World) -> None:
    made = with_facts(clean, beta_is_objective=False, labels="were written by people")
    assert told_by(validity.labels, made).startswith(
        "dpo: the labels of its pairs were written by people, so β"
    )
    assert told_by(validity.labels, clean) == ""
    only = with_facts(world(Path("x"), {"reinforce": "reinforce", "ppo": "ppo"}), beta_is_objective=False)
    assert told_by(validity.labels, only) == ""


@pytest.mark.parametrize(
    ("arms", "beginning", "remedy"),
    [
        (
            ["dpo", "ppo"],
            "dpo: the labels of its pairs",
            " Compare with the other arm at matched KL, as far as it can be read there.",
        ),
        (
            ["dpo", "ppo", "reinforce"],
            "dpo: the labels of its pairs",
            " Compare with the other arms at matched KL, as far as it can be read there.",
        ),
        (
            ["dpo-a", "dpo-b", "ppo"],
            "dpo-a and dpo-b: the labels of their pairs",
            " Compare with the other arm at",
        ),
        (
            ["dpo-a", "dpo-b"],
            "dpo-a and dpo-b: the labels of their pairs",
            " Compare them at matched KL, as far as it can be read there.",
        ),
        (["dpo"], "dpo: the labels of its pairs", "objective there."),
    ],
)
def test_one_arm_and_several_are_spoken_of_as_such(arms: list[str], beginning: str, remedy: str) -> None:
    made = with_facts(world(Path("x"), {arm: arm.partition("-")[0] for arm in arms}), beta_is_objective=False)
    text = told_by(validity.labels, made)
    assert text.startswith(beginning)
    assert remedy in text
    assert text.count("Compare") == (len(arms) > 1)


def test_whose_coefficient_it_is_not_is_said_of_one_other_arm_and_of_several() -> None:
    two, three = (
        with_facts(world(Path("x"), dict(itertools.islice(arms, count))), beta_is_objective=False)
        for count, arms in ((2, reversed(ARMS.items())), (3, ARMS.items()))
    )
    own = "dpo's β is not the KL coefficient"
    assert objectives.unlike_beta(two, ["ppo", "dpo"]) == f"{own} of the other arm (see below)"
    assert objectives.unlike_beta(three, ARMS) == f"{own} that the others share (see below)"


def test_why_a_beta_is_an_arms_own_is_said_of_one_and_of_several() -> None:
    made = world(Path("x"), {"dpo-a": "dpo", "dpo-b": "dpo", "ppo": "ppo"})
    one = with_settings(made, "dpo-a", on_policy=True)
    both = with_settings(one, "dpo-b", on_policy=True)
    assert told_by(validity.labels, one).startswith("dpo-a: it learns from")
    assert told_by(validity.labels, both).startswith("dpo-a and dpo-b: they learn from")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"on_policy": True}, "the best and the worst of each group"),
        ({"loss_type": "ipo"}, "an optimum of its own"),
        ({"reference_free": True}, "an optimum of its own"),
        ({"label_smoothing": 0.1}, "smoothed"),
        ({"loss_type": "sigmoid", "label_smoothing": 0.0, "on_policy": False}, ""),
    ],
)
def test_losses_whose_beta_is_their_own(clean: World, settings: dict[str, Any], reason: str) -> None:
    text = told_by(validity.labels, with_settings(clean, "dpo", **settings))
    assert reason in text
    assert bool(reason) == bool(text)


@pytest.mark.parametrize(
    ("arm", "settings", "reason"),
    [
        ("ppo", {"kl_control": "adaptive"}, "steered to a KL"),
        ("ppo", {"gamma": 0.99}, "discounts"),
        ("ppo", {"whiten_rewards": True}, "by their spread"),
        ("ppo", {"aggregation": "token_mean", "gamma": 1.0, "kl_control": "fixed"}, ""),
        ("reinforce", {"scale_by_group_std": True}, "by their spread"),
        ("reinforce", {"aggregation": "sequence_mean"}, "by their length"),
        ("reinforce", {"aggregation": "token_mean"}, "by their length"),
        ("reinforce", {"aggregation": "constant"}, ""),
        ("ppo", {"aggregation": "sequence_mean"}, "by their length"),
        ("ppo", {"aggregation": "constant"}, ""),
    ],
)
def test_options_that_change_the_objective(
    clean: World, arm: str, settings: dict[str, Any], reason: str
) -> None:
    made = with_settings(clean, arm, **settings)
    text = told_by(validity.labels, made)
    assert text.startswith(f"{arm}: it") == bool(reason)
    assert reason in text
    assert set(objectives.own_beta(made)) == ({arm} if reason else set())
