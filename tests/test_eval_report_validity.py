"""Caveats on judge and reward model, and on responses that the reward left unscored."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_cases import told_by, with_facts
from report_world import ARMS, POINTS, World
from small_world import small_world

from algos import Sampling
from eval.data.accounting import Accounting
from eval.experiment import Experiment
from eval.report.caveats import validity
from eval.stages.cache import ArtefactCache
from eval.tasks import materials_of


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


@pytest.mark.parametrize(("cut", "said"), [(120, "60%"), (11, "6%"), (10, None), (0, None)])
def test_pairs_of_which_many_are_cut(clean: World, cut: int, said: str | None) -> None:
    account = Accounting("pairs.jsonl", 210)
    account.drop("identical chosen and rejected", rows=10)
    for line in range(cut):
        account.note("response truncated", line)
    limited = dataclasses.replace(clean, settings={"sampling": {"max_new_tokens": 24}})
    told = told_by(validity.cut_responses, with_facts(limited, data=[account.as_dict()]))
    whole = f"{said} of the pairs of pairs.jsonl have a response that is cut, at --max-new-tokens (24)"
    assert told.startswith(whole) if said else not told


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
