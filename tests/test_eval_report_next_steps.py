"""What to do next: which policy is shown, what speaks against it, and how many seeds more."""

from __future__ import annotations

import dataclasses

import pytest
from report_world import World, with_ends

from eval.report.document import Block, Code, Text
from eval.report.numbers.frames import evaluations
from eval.report.numbers.standings import standings
from eval.report.sections import verdict
from eval.report.sections.next_steps import MORE_SEEDS, section

CLEAR = {"a": [0.9, 0.91, 0.92], "far": [0.1, 0.12, 0.1]}


def next_blocks(made: World) -> tuple[Block, ...]:
    view = evaluations(made)
    return section(made, view, standings(view)).blocks


def policy(made: World) -> str:
    """The sentence on the policy that is shown."""
    (text,) = (b.text for b in next_blocks(made) if isinstance(b, Text) and "policy" in b.text)
    return text


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
    _, named, told = " ".join(verdict.read(made).sentences).rpartition("--seeds ")
    assert bool(named) == (seeds != 5 + MORE_SEEDS)
    expected = int(told) if named else seeds
    assert seeds in (None, expected)
    (command,) = (
        block.text for block in next_blocks(made) if isinstance(block, Code) and "--resume" in block.text
    )
    assert command.endswith(f"--seeds {expected}")


@pytest.mark.parametrize(
    ("scores", "reservation"),
    [
        ({"a": [0.9, 0.91, 0.92], "far": [0.1, 0.12, 0.1]}, ""),
        ({"a": [0.9, 0.91, 0.92], "b": [0.8, 0.99, 0.9]}, ", though it is not told apart from b"),
        (
            {"a": [0.9, 0.91, 0.92], "b": [0.8, 0.99, 0.9], "c": [0.7, 1.0, 0.95], "far": [0.1, 0.12, 0.1]},
            ", though it is not told apart from b or c (c is above it in 2 of 3 seeds)",
        ),
        (
            {"a": [0.5, 0.51, 0.52, 0.99], "b": [0.6, 0.61, 0.625]},
            ", though it is not told apart from the untouched base and on the seeds of both it is below b",
        ),
        ({"a": [0.9], "b": [0.8, 0.81]}, ", though it is not told apart from b or the untouched base"),
        ({"a": [0.30, 0.31, 0.33], "b": [0.2, 0.22, 0.21]}, ", though it ended below the untouched base"),
        (
            {"a": [0.3, 0.31, 0.32], "b": [0.2, 0.39, 0.3]},
            ", though it ended below the untouched base and it is not told apart from b",
        ),
    ],
    ids=[
        "ahead",
        "level",
        "ahead of one, level with two",
        "below",
        "one common seed",
        "below the base",
        "below the base, level",
    ],
)
def test_the_arm_of_the_highest_mean_is_not_said_to_lead_where_others_may(
    scores: dict[str, list[float]], reservation: str
) -> None:
    assert policy(with_ends(scores)).startswith(
        f"a has the highest mean{reservation}. Its policy of seed 0 is in "
    )


@pytest.mark.parametrize(
    ("scores", "beginning"),
    [
        ([0.9, 0.91, 0.92], "a's policy of seed 0 is in "),
        (
            [0.3, 0.31, 0.32],
            "Before using a, know that it ended below the untouched base. Its policy of seed 0 is in ",
        ),
        (
            [0.3, 0.71, 0.6],
            "Before using a, know that it is not told apart from the untouched base. Its policy",
        ),
        ([0.2], "Before using a, know that it ended below the untouched base in its one run. Its policy"),
        ([0.2, 0.2], "Before using a, know that it ended below the untouched base in every run. Its policy"),
    ],
    ids=["above", "below", "level", "one run", "no spread"],
)
def test_of_one_arm_no_mean_is_the_highest(scores: list[float], beginning: str) -> None:
    assert policy(with_ends({"a": scores})).startswith(beginning)


def test_the_seed_that_is_shown_is_the_first_that_finished_not_the_best() -> None:
    made = with_ends(CLEAR)
    failed = (made.runs["arm"] == "a") & (made.runs["seed"] == 0)
    runs = made.runs.assign(
        status=made.runs["status"].mask(failed, "failed"), policy=made.runs["policy"].mask(failed, "")
    )
    assert (
        "policy of seed 1 is in reports/x/runs/a-s1/policy (the first finished seed, not the best: picking the best on these "
        "prompts would flatter it)."
    ) in policy(dataclasses.replace(made, runs=runs))


def test_the_base_is_no_rival_where_it_was_not_evaluated() -> None:
    made = with_ends({"a": [0.5, 0.9, 0.1], "far": [0.1, 0.12, 0.1]})
    assert "the untouched base" in policy(made)
    unjudged = made.results[(made.results["point"] > 0) | (made.results["metric"] != "reward/judge")]
    assert "the untouched base" not in policy(dataclasses.replace(made, results=unjudged))


def test_runs_that_diverged_are_named() -> None:
    made = with_ends(CLEAR)

    def diverged(*seeds: int) -> World:
        own = (made.runs["arm"] == "a") & made.runs["seed"].isin(seeds)
        reasons = ["iteration 1: its KL is 7 nats a token" if one else "" for one in own]
        return dataclasses.replace(made, runs=made.runs.assign(diverged=reasons))

    assert policy(diverged(1)).startswith(
        "a has the highest mean, though its run of seed 1 diverged. Its policy"
    )
    assert "though its runs of seeds 0 and 2 diverged." in policy(diverged(0, 2))
    assert "diverged" not in policy(diverged())
