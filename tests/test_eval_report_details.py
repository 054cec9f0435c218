"""The section on runs that failed or diverged: each with its last evaluation and the reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from report_world import World, with_ends, world

from eval.report import verdict
from eval.report.details import MORE_SEEDS, configuration, runs, what_next
from eval.report.document import Block, Code, Table, Text
from eval.report.frames import evaluations
from eval.report.standings import standings


def next_blocks(made: World) -> tuple[Block, ...]:
    view = evaluations(made)
    return what_next(made, view, standings(view)).blocks


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
    frame["diverged"] = ""
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


@pytest.mark.parametrize(
    ("scores", "seeds"),
    [
        ({"ppo": [0.5], "dpo": [0.7]}, 5),
        ({"ppo": [0.52, 0.6], "dpo": [0.7, 0.71]}, 5),
        ({"ppo": [0.9, 0.4, 0.6], "dpo": [0.2, 0.3, 0.1]}, None),  # by a forecast
        ({"ppo": [0.56, 0.47, 0.55, 0.5]}, None),
        ({"ppo": [0.9, 0.91, 0.92, 0.9, 0.91], "dpo": [0.6, 0.62, 0.61, 0.61, 0.6]}, 5 + MORE_SEEDS),
    ],
    ids=["one seed", "two seeds", "a forecast", "one arm", "told apart"],
)
def test_the_next_seeds_are_the_verdicts_where_it_names_a_number(
    scores: dict[str, list[float]], seeds: int | None
) -> None:
    made = with_ends(scores)
    _, named, told = " ".join(verdict.sentences(made)).rpartition("--seeds ")
    assert bool(named) == (seeds != 5 + MORE_SEEDS)
    expected = int(told) if named else seeds
    assert seeds in (None, expected)
    (command,) = (
        block.text for block in next_blocks(made) if isinstance(block, Code) and "--resume" in block.text
    )
    assert command.endswith(f"--seeds {expected}")


def test_why_there_is_no_frontier_is_no_row_of_where_it_ran() -> None:
    made = world(Path("x"), {"ppo": "ppo"}, 2)
    failed = dataclasses.replace(made, environment={**made.environment, "no_frontier": "no memory"})
    assert configuration(failed) == configuration(made)


@pytest.mark.parametrize(
    ("scores", "reservation"),
    [
        ({"a": [0.9, 0.91, 0.92], "far": [0.1, 0.12, 0.1]}, ""),
        ({"a": [0.9, 0.91, 0.92]}, ""),
        ({"a": [0.9, 0.91, 0.92], "b": [0.8, 0.99, 0.9]}, ", though it is not told apart from b"),
        (
            {"a": [0.9, 0.91, 0.92], "b": [0.8, 0.99, 0.9], "c": [0.7, 1.0, 0.95], "far": [0.1, 0.12, 0.1]},
            ", though it is not told apart from b or c",
        ),
        (
            {"a": [0.5, 0.51, 0.52, 0.99], "b": [0.6, 0.61, 0.625]},
            ", though on the seeds of both it is below b",
        ),
        ({"a": [0.9], "b": [0.8, 0.81]}, ", though it is not told apart from b"),
    ],
    ids=["ahead", "alone", "level", "ahead of one, level with two", "below", "one common seed"],
)
def test_the_arm_of_the_highest_mean_is_not_said_to_lead_where_others_may(
    scores: dict[str, list[float]], reservation: str
) -> None:
    (text,) = (b.text for b in next_blocks(with_ends(scores)) if isinstance(b, Text) and "mean" in b.text)
    assert text.startswith(f"a has the highest mean{reservation}. Its policy of seed 0 is in ")
