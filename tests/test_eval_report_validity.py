"""Caveats on judge, reward model, labels and length; whose β is the coefficient of the objective."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_cases import nothing_amiss, told_by, with_facts, with_settings
from report_world import ARMS, POINTS, World, world
from small_world import small_world

from algos import Sampling
from eval.experiment import Experiment
from eval.report.caveats import validity
from eval.report.numbers import objectives
from eval.report.numbers.frames import evaluations
from eval.stages.cache import ArtefactCache
from eval.tasks import materials_of


@pytest.fixture
def clean() -> World:
    return nothing_amiss()


def by_length(slope: float, quality: float, longer: float, prompts: int = 64) -> World:
    """Responses scored 0.4 + slope·(length − 12) + noise; the arm's are `longer` by so many tokens and better besides."""
    generator = np.random.default_rng(1)
    topics = 0.1 * generator.normal(size=prompts)
    rows = []
    for arm, seeds in (("base", 1), ("ppo", 3)):
        for seed in range(seeds):
            moved, gained = (longer, quality) if arm == "ppo" else (0.0, 0.0)
            lengths = generator.normal(12 + moved, 3, prompts).round()
            noise = 0.1 * generator.normal(size=prompts)
            judged = 0.4 + slope * (lengths - 12) + gained + topics + noise
            rows += [
                {"arm": arm, "seed": seed, "prompt_id": i, "length": lengths[i], "judge": judged[i]}
                for i in range(prompts)
            ]
    return dataclasses.replace(world(Path("x"), {"ppo": "ppo"}), samples=pd.DataFrame(rows))


def test_a_gain_that_length_explains() -> None:
    text = told_by(validity.length, by_length(slope=0.03, quality=0.0, longer=5))
    assert "ppo's responses grew from 11.9 to 17.0 tokens" in text
    assert "a token, which alone would account for" in text
    shorter = told_by(validity.length, by_length(slope=-0.03, quality=0.02, longer=-5))
    assert "ppo's responses shrank from" in shorter
    assert "gives −0.0" in shorter


@pytest.mark.parametrize(
    ("slope", "quality", "longer"),
    [
        (0.0, 0.2, 5),  # the judge is blind to length
        (0.03, 0.5, 5),  # the gain is far larger
        (0.03, 0.2, 0.5),  # the length hardly changed
        (0.03, 0.0, -5),  # shorter and worse: no gain to explain
        (-0.03, 0.4, 5),  # longer and better although the judge prefers short ones
    ],
)
def test_a_gain_that_length_does_not_explain(slope: float, quality: float, longer: float) -> None:
    assert told_by(validity.length, by_length(slope, quality, longer)) == ""


def test_a_small_slope_is_shown_with_its_digits() -> None:
    """A judge in [0, 1] over responses of 300 tokens: less than a thousandth a token."""
    made = by_length(slope=0.01, quality=0.0, longer=5, prompts=512)
    samples = made.samples.assign(length=25 * made.samples["length"])
    base = samples[samples["arm"] == "base"]
    slope = float(np.polyfit(base["length"], base["judge"], 1)[0])
    assert round(slope, 3) == 0
    text = told_by(validity.length, dataclasses.replace(made, samples=samples))
    assert f"gives +{slope:.6f} a token, which alone would account for" in text


def test_responses_to_one_prompt_are_not_independent() -> None:
    """Length and judge are unrelated, four fifths of the variance of each between prompts: a slope is called real in one
    draw of twenty, half of them upwards."""
    generator = np.random.default_rng(0)
    draws, prompts, responses = 60, 32, 8
    made = world(Path("x"), {"ppo": "ppo"})
    view = evaluations(made)
    prompt_ids = np.repeat(np.arange(prompts), responses)
    fired = 0
    for _ in range(draws):
        lengths, judged = (
            np.sqrt(0.8) * np.repeat(generator.normal(size=prompts), responses)
            + np.sqrt(0.2) * generator.normal(size=prompts * responses)
            for _ in range(2)
        )
        base = pd.DataFrame(
            {"arm": "base", "prompt_id": prompt_ids, "length": 20 + 3 * lengths, "judge": judged}
        )
        better = base.assign(arm="ppo", length=base["length"] + 10, judge=judged + 1e-3)
        found = dataclasses.replace(made, samples=pd.concat([base, better], ignore_index=True))
        fired += bool(validity.length(found, view))
    assert fired <= 5


def test_a_slope_that_stands_on_one_prompt_is_none() -> None:
    made = by_length(slope=0.03, quality=0.0, longer=5)
    samples = made.samples.copy()
    base = samples["arm"] == "base"
    samples.loc[base, "length"] = 12.0
    samples.loc[base & (samples["prompt_id"] == 0), ["length", "judge"]] = 9.0, 0.0
    assert told_by(validity.length, dataclasses.replace(made, samples=samples)) == ""


def test_too_few_prompts_say_nothing_of_length() -> None:
    assert told_by(validity.length, by_length(0.03, 0.0, 5, prompts=15)) == ""


@pytest.mark.parametrize(
    ("accuracy", "pairs", "fires"),
    [
        (0.75, 200, False),
        (0.53, 2000, True),
        (0.62, 60, True),
        (0.62, 400, False),
        (1.0, 2, True),
        (1.0, 10, False),
    ],
)
def test_a_reward_model_near_chance(clean: World, accuracy: float, pairs: int, fires: bool) -> None:
    about = {"accuracy": accuracy, "heldout_pairs": pairs}
    text = told_by(validity.learned_models, with_facts(clean, reward_model=about))
    assert bool(text) == fires
    judged = told_by(validity.learned_models, with_facts(clean, reward_model={}, judge_model=about))
    assert judged.startswith("The judge, a model learned from pairs, orders") == fires


def test_the_interval_of_the_accuracy_is_wilsons(clean: World) -> None:
    made = with_facts(clean, reward_model={"accuracy": 0.5, "heldout_pairs": 100})
    assert "0.50 of 100 held-out pairs right (95% interval 0.40 to 0.60;" in told_by(
        validity.learned_models, made
    )


def test_what_helps_a_reward_model_names_its_learning_rate(clean: World) -> None:
    """A small one learns nothing at the default, however many epochs it makes."""
    made = with_facts(clean, reward_model={"accuracy": 0.5, "heldout_pairs": 100})
    rate = {**made.settings, "reward_model": {"learning_rate": 1e-5}}
    told = told_by(validity.learned_models, dataclasses.replace(made, settings=rate))
    assert "a larger --reward-model.learning-rate (now 1×10⁻⁵), would help." in told


def test_every_data_seeds_reward_model_is_looked_at(clean: World) -> None:
    def told(*accuracies: float) -> str:
        models = [{"accuracy": accuracy, "heldout_pairs": 205, "pairs": 1843} for accuracy in accuracies]
        seeds = {str(seed): {"reward_model": about} for seed, about in enumerate(models)}
        return told_by(validity.learned_models, with_facts(clean, reward_model=models[0], data_seeds=seeds))

    assert told(0.75, 0.74) == ""
    assert told(0.75, 0.53).startswith(
        "The reward model of data seed 1 orders 0.53 of 205 held-out pairs right ("
    )
    assert "coin 0.50): what follows" in told(0.75, 0.53)
    assert "; so does 1 more of the 3 reward models: what follows" in told(0.53, 0.75, 0.51)
    assert "; so do 2 more of the 3 reward models: what follows" in told(0.53, 0.54, 0.51)


def test_judge_and_reward_are_the_same(clean: World) -> None:
    assert "Name another judge with --judge" in told_by(
        validity.same_scorer, with_facts(clean, judge_is_reward=True)
    )
    assert told_by(validity.same_scorer, clean) == ""


def left_unscored(made: World, shares: dict[str, float]) -> World:
    """These shares of the responses at the arms' ends, those of the base's at its start."""
    ends = made.results[(made.results["metric"] == "reward/proxy") & made.results["point"].isin([0, POINTS])]
    ends = ends[(ends["point"] == POINTS) | (ends["arm"] == "base")]
    rows = ends.assign(metric="unscored", value=ends["arm"].map(shares))
    return dataclasses.replace(made, results=pd.concat([made.results, rows], ignore_index=True))


def test_responses_without_a_training_score(clean: World) -> None:
    text = told_by(
        validity.unscored, left_unscored(clean, {"base": 0.01, "reinforce": 0.0, "ppo": 0.25, "dpo": 0.004})
    )
    assert text.startswith(
        "25% of ppo's, 1% of the base's and less than 1% of dpo's responses had no training score and are not in their proxy reward:"
    )
    assert "reinforce" not in text
    one = told_by(
        validity.unscored,
        left_unscored(clean, dict.fromkeys(["base", "reinforce", "dpo"], 0.0) | {"ppo": 0.5}),
    )
    assert one.startswith("50% of ppo's responses had no training score and are not in its proxy reward:")
    none = left_unscored(clean, dict.fromkeys(["base", *ARMS], 0.0))
    assert told_by(validity.unscored, none) == told_by(validity.unscored, clean) == ""


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
        (["dpo", "ppo"], "dpo: the labels of its pairs", " Compare with the other arm at matched KL."),
        (
            ["dpo", "ppo", "reinforce"],
            "dpo: the labels of its pairs",
            " Compare with the other arms at matched KL.",
        ),
        (
            ["dpo-a", "dpo-b", "ppo"],
            "dpo-a and dpo-b: the labels of their pairs",
            " Compare with the other arm at",
        ),
        (["dpo-a", "dpo-b"], "dpo-a and dpo-b: the labels of their pairs", " Compare them at matched KL."),
        (["dpo"], "dpo: the labels of its pairs", "objective there."),
    ],
)
def test_one_arm_and_several_are_spoken_of_as_such(arms: list[str], beginning: str, remedy: str) -> None:
    made = with_facts(world(Path("x"), {arm: arm.partition("-")[0] for arm in arms}), beta_is_objective=False)
    text = told_by(validity.labels, made)
    assert text.startswith(beginning)
    assert remedy in text
    assert text.count("Compare") == (len(arms) > 1)


def test_the_other_arm_maximises_and_the_others_maximise() -> None:
    two, three = (
        with_facts(world(Path("x"), dict(itertools.islice(arms, count))), beta_is_objective=False)
        for count, arms in ((2, reversed(ARMS.items())), (3, ARMS.items()))
    )
    assert objectives.unlike_beta(two, ["ppo", "dpo"]).endswith("objective that the other arm maximises")
    assert objectives.unlike_beta(three, ARMS).endswith("objective that the other arms maximise")


@pytest.mark.parametrize(
    ("settings", "reasons"),
    [
        ({"on_policy": True}, ("it learns from", "they learn from")),
        ({"loss_type": "ipo"}, ("its loss", "their loss")),
        ({"gamma": 0.9}, ("it discounts", "they discount")),
        ({"whiten_rewards": True}, ("it divides", "they divide")),
    ],
)
def test_why_a_beta_is_an_arms_own_is_said_of_one_and_of_several(
    settings: dict[str, Any], reasons: tuple[str, str]
) -> None:
    made = world(Path("x"), {"dpo-a": "dpo", "dpo-b": "dpo", "ppo": "ppo"})
    one = with_settings(made, "dpo-a", **settings)
    both = with_settings(one, "dpo-b", **settings)
    assert told_by(validity.labels, one).startswith(f"dpo-a: {reasons[0]}")
    assert told_by(validity.labels, both).startswith(f"dpo-a and dpo-b: {reasons[1]}")


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


@pytest.mark.parametrize(
    ("settings", "same", "objective", "labels"),
    [
        ({"reward": "score"}, True, True, "were drawn from the training reward at scale 1"),
        ({"reward": "score", "judge": "score"}, True, True, "were drawn from the training reward at scale 1"),
        ({"reward": "score", "judge": "strict", "label_scale": 2.0}, False, False, "were drawn from the training reward at scale 2"),
        ({"reward": "score", "judge": "strict", "pairs": True}, False, False, "were not drawn from the training reward"),
    ],
)  # fmt: skip
def test_a_users_task_knows_what_its_labels_and_judge_are(
    tmp_path: Path, settings: dict[str, Any], same: bool, objective: bool, labels: str
) -> None:
    small = small_world(tmp_path / "small")
    paths = {name: small.reward(settings[name]) for name in ("reward", "judge") if name in settings}
    experiment = Experiment(
        task="custom", model=small.model, prompts=small.prompts, sampled_pairs=8, **paths,
        pairs=small.pairs if settings.get("pairs") else None, label_scale=settings.get("label_scale", 1.0),
        sampling=Sampling(max_new_tokens=6),
    )  # fmt: skip
    facts = materials_of(experiment, ArtefactCache(tmp_path / "cache"), 0).facts
    assert (facts["judge_is_reward"], facts["beta_is_objective"], facts["labels"]) == (
        same,
        objective,
        labels,
    )
