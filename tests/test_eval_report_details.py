"""Sections on how it was done: what was prepared, and runs that failed or diverged."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from report_cases import with_facts
from report_world import World, world

from eval.experiment import Experiment
from eval.report.document import Code, Table, Text
from eval.report.figures import theme
from eval.report.numbers.frames import evaluations
from eval.report.sections.details import MANY_DATA_SEEDS, configuration, data, definitions, runs
from eval.report.sections.outcomes import training
from eval.settings.checks import NOT_FOR_REVIEWS


def cells(made: World) -> list[list[str]]:
    (block,) = runs(evaluations(made)).blocks
    assert isinstance(block, Table)
    return [[getattr(cell, "text", cell) for cell in row] for row in block.rows]


def test_a_failed_run_shows_where_it_was_good_last() -> None:
    made = world(Path("x"), {"ppo": "ppo", "dpo": "dpo"}, 2)
    frame = made.runs.astype({"error": object})
    failed = (frame["arm"] == "ppo") & (frame["seed"] == 1)
    frame.loc[failed, ["status", "error", "fraction"]] = ["failed", "the loss is nan at update 7", 0.5]
    diverged = (frame["arm"] == "dpo") & (frame["seed"] == 0)
    frame.loc[diverged, "diverged"] = "iteration 3 (update 3): its KL to the base is 7.1 nats a token"
    by_arm = {row[0]: row for row in cells(dataclasses.replace(made, runs=frame))}
    assert by_arm["ppo"][:4] == ["ppo", "1", "failed", "50%"]
    assert by_arm["dpo"][:4] == ["dpo", "0", "done, diverged", "100%"]
    assert by_arm["ppo"][4].startswith("point ")
    assert by_arm["ppo"][5] == "the loss is nan at update 7"
    assert "7.1 nats a token" in by_arm["dpo"][5]


def test_where_all_is_well_a_sentence_says_so() -> None:
    (block,) = runs(evaluations(world(Path("x"), {"ppo": "ppo"}, 2))).blocks
    assert isinstance(block, Text)
    assert "None: all 2 runs" in block.text


def test_why_there_is_no_frontier_is_no_row_of_where_it_ran() -> None:
    made = world(Path("x"), {"ppo": "ppo"}, 2)
    failed = dataclasses.replace(made, environment={**made.environment, "no_frontier": "no memory"})
    assert configuration(failed) == configuration(made)


def code(made: World) -> dict[str, str]:
    """Summary → text of what is folded away in the section on configuration."""
    return {block.summary: block.text for block in configuration(made).blocks if isinstance(block, Code)}


def test_settings_that_the_configuration_spells_out_are_not_repeated() -> None:
    """Of an algorithm they are under `hyperparameters`; of a variant what it does not name is told."""
    made = world(Path("x"), {"ppo": "ppo", "small": "ppo"}, 2)
    words = "Every variant's settings, those of its algorithm included"
    assert words not in code(made)
    small = {"algorithm": "ppo", "beta": 0.05}
    varied = dataclasses.replace(made, settings=made.settings | {"variants": {"small": small}})
    assert code(varied)[words] == "small:\n  beta: 0.05\n  learning_rate: 0.0003"


@pytest.mark.parametrize(
    ("commit", "shown"),
    [("0123456789ab", "0123456789ab"), ("0123456789ab+", "0123456789ab+ (the +: with uncommitted changes)")],
)
def test_the_plus_of_a_commit_is_explained(commit: str, shown: str) -> None:
    made = world(Path("x"), {"ppo": "ppo"}, 2)
    *_, table = configuration(
        dataclasses.replace(made, environment=made.environment | {"commit": commit})
    ).blocks
    assert isinstance(table, Table)
    assert {row[0].text: row[1].text for row in table.rows}["commit"] == shown


def test_how_to_read_diagnostics_is_said_once() -> None:
    made = world(Path("x"))
    with theme.drawing():
        how, *pictures = training(made, theme.styles(evaluations(made).arms)).blocks
    assert isinstance(how, Text)
    assert how.text.startswith("What training logged, against updates. Thin lines are seeds")
    assert [getattr(picture, "heading", None) for picture in pictures] == ["reinforce", "ppo", "dpo"]


def test_where_nothing_was_logged_there_is_nothing_to_read() -> None:
    made = dataclasses.replace(world(Path("x"), {"ppo": "ppo"}, 2), events=pd.DataFrame())
    (block,) = training(made, theme.styles({"ppo": "ppo"})).blocks
    assert getattr(block, "label", "") == "No diagnostics"


# Data and preparation ----------------------------------------------------------------------------------


def replicated(accuracies: list[float], pairs: list[int]) -> World:
    """A comparison of which every data seed has a reward model of its own."""
    made = world(Path("x"))
    seeds = {
        str(seed): {
            "reward_model": {"accuracy": accuracy, "pairs": count, "heldout_pairs": 205},
            "stages": [{"name": "reward model", "seconds": 5.0 + seed, "flops": 9e11, "cached": False}],
        }
        for seed, (accuracy, count) in enumerate(zip(accuracies, pairs, strict=True))
    }
    return with_facts(made, data_seeds=seeds)


def told(made: World) -> str:
    """The sentences of the section on data."""
    return " ".join(block.text for block in data(made).blocks if isinstance(block, Text))


def prepared(made: World) -> Table:
    (found,) = (b for b in data(made).blocks if isinstance(b, Table) and b.heading == "Preparation")
    return found


def test_a_judge_that_is_the_tasks_own_is_said_to_be_its_true_reward() -> None:
    made = world(Path("x"))
    assert "The judge is the task's hidden gold judge, this task's true reward. The training" in told(made)
    assert "true reward" not in told(with_facts(made, judge_is_gold=False))


def test_every_data_seeds_reward_model_is_told() -> None:
    text = told(replicated([0.735, 0.8, 0.7], [1833, 999, 10_001]))
    assert (
        "Each of the 3 data seeds has a reward model of its own, trained on 999 to 10,001 pairs, which orders 0.70 to 0.80 of "
        "205 held-out pairs as labelled (chance is 0.5; where labels are noisy, 1 is out of reach)."
    ) in text
    assert "trained on 1,833 pairs, which orders 0.73 of 205 held-out pairs" in told(
        replicated([0.734, 0.734], [1833, 1833])
    )


def test_every_data_seeds_stages_are_told() -> None:
    table = prepared(replicated([0.735, 0.7], [1833, 1826]))
    assert [column.label for column in table.columns][:2] == ["data seed", "stage"]
    assert [[cell.text for cell in row[:3]] for row in table.rows] == [
        ["0", "reward model", "5.0 s"],
        ["1", "reward model", "6.0 s"],
    ]
    assert table.caption.startswith(
        "Built once, or once for every data seed, and shared by the runs that need"
    )
    assert not table.folded
    assert prepared(replicated([0.7] * (MANY_DATA_SEEDS + 1), [1833] * (MANY_DATA_SEEDS + 1))).folded


def test_rows_are_those_of_the_first_data_seed() -> None:
    def caption(made: World) -> str:
        (found,) = (b for b in data(made).blocks if isinstance(b, Table) and b.heading == "Data")
        return found.caption

    assert caption(replicated([0.7, 0.7], [9, 9])).startswith("Of data seed 0;")
    assert caption(world(Path("x"))) == ""


def test_one_data_seed_is_told_as_before_there_were_several() -> None:
    made = world(Path("x"))
    assert (
        "The reward model, trained on 1,843 pairs, orders 0.75 of 205 held-out pairs as labelled (95% interval 0.69 to 0.81; "
        "chance is 0.5; where labels are noisy, 1 is out of reach)."
    ) in told(made)
    assert "orders 0.75 of held-out pairs as labelled (chance" in told(
        with_facts(made, reward_model={"accuracy": 0.753})
    )
    assert prepared(made).caption.startswith("Built once and shared by all arms that need them")
    assert prepared(made).columns[0].label == "stage"
    assert "as labelled" not in told(with_facts(made, reward_model=None))


def test_what_no_arm_pays_for_is_not_shown_as_free() -> None:
    names = {"base model": 0.0, "sampled pairs": 3.42e10, "judge model": 9e11}
    stages = [
        {"name": name, "seconds": 1.0, "flops": flops, "cached": False} for name, flops in names.items()
    ]
    rows = prepared(with_facts(world(Path("x")), stages=stages)).rows
    assert [(row[2].text, row[2].small) for row in rows] == [
        ("–", "in no arm's cost"), ("3.42×10¹⁰", ""), ("9.00×10¹¹", "in no arm's cost"),
    ]  # fmt: skip


# Configuration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "left_out"),
    [
        ({"task": "reviews"}, [*NOT_FOR_REVIEWS, "lora_settings", "tune_seeds", "search"]),
        ({"task": "custom", "prompts": "p", "reward": "r"}, ["reward_model", "lora_settings", "tune_seeds", "search"]),
        ({"task": "custom", "pairs": "p", "lora": True}, ["sampled_pairs", "label_scale", "tune_seeds", "search"]),
        ({"task": "custom", "pairs": "p", "reward": "r", "tune": 3}, ["sampled_pairs", "label_scale", "reward_model", "lora_settings"]),
    ],
)  # fmt: skip
def test_the_configuration_leaves_out_and_names_what_nothing_uses(
    asked: dict[str, Any], left_out: list[str]
) -> None:
    """Of reviews what a command line may not set either."""
    settings = Experiment.from_dict(asked).to_dict()
    made = dataclasses.replace(world(Path("x")), settings=settings)
    ((summary, text),) = ((head, body) for head, body in code(made).items() if head.startswith("The "))
    assert summary == "The resolved configuration (experiment.yaml)"
    told, named = text.rsplit("\n# Not read in this comparison, so left out: ", 1)
    assert named.split(", ") == [name for name in settings if name in left_out]
    assert yaml.safe_load(told) == {name: value for name, value in settings.items() if name not in left_out}


def test_pairs_are_not_sampled_where_no_arm_learns_from_them() -> None:
    settings = Experiment(task="custom", prompts="p", reward="r").to_dict()
    made = dataclasses.replace(world(Path("x"), {"ppo": "ppo"}), settings=settings)
    assert "sampled_pairs, label_scale, reward_model" in "".join(code(made).values())


def test_words_of_the_trade_are_defined() -> None:
    _, words = definitions(evaluations(world(Path("x")))).blocks
    assert isinstance(words, Table)
    assert [row[0].text for row in words.rows] == ["nat", "k1", "regret", "Holm"]
