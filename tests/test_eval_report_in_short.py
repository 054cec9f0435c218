"""The verdict in one line: short and true for two, three and many arms, and left out where it could not be."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_cases import OWN, twelve, two_paths, with_facts
from report_world import World, with_ends, with_paths, world

from eval.console import Console
from eval.report.sections import verdict
from eval.terminal import show_ends

NOISES = (0.0, 0.01, -0.01, 0.004, -0.006)


def crossing() -> World:
    """ppo, whose preparation is dear, is far ahead of dpo at the end and level with it at dpo's cost."""
    ppo = [(8.0, 0.0, 0.4), (9.0, 1.0, 0.5), (11.0, 1.5, 0.7), (28.0, 3.0, 0.9)]
    dpo = [(1.0, 0.0, 0.4), (4.0, 1.0, 0.5), (10.0, 2.0, 0.6)]
    turned = (0.01, -0.02, 0.0, 0.005, 0.01)
    return with_paths(
        {
            arm: [[path[0], *((c, k, j + noise) for c, k, j in path[1:])] for noise in noises]
            for arm, path, noises in (("ppo", ppo, NOISES), ("dpo", dpo, turned))
        }
    )


@pytest.mark.parametrize(
    ("scores", "line"),
    [
        ({"a": [0.9, 0.91, 0.92], "b": [0.5, 0.52, 0.5]}, "a ahead of b"),
        ({"a": [0.9, 0.91, 0.92], "b": [0.8, 0.99, 0.9]}, "a and b not told apart"),
        ({"a": [0.9, 0.91, 0.92], "b": [0.8, 0.99, 0.9], "c": [0.95, 0.7, 0.99]}, "nothing told apart"),
        (
            {"a": [0.9, 0.91, 0.92], "b": [0.8, 0.99, 0.9], "c": [0.5, 0.52, 0.5]},
            "a ahead of c; a and b not told apart",
        ),
        (
            {"a": [0.9, 0.91, 0.92], "b": [0.8, 0.99, 0.9], "c": [0.95, 0.7, 0.99], "d": [0.1, 0.12, 0.1]},
            "a ahead of d; a not told apart from b or c",
        ),
    ],
    ids=["ahead", "level", "all level", "ahead of one", "ahead of one, level with two"],
)
def test_who_is_ahead_of_whom(scores: dict[str, list[float]], line: str) -> None:
    short = verdict.read(with_ends(scores)).short
    assert short.startswith(line)


def test_what_another_comparison_finds_else_is_said_and_the_same_is_not() -> None:
    assert verdict.read(crossing()).short == "ppo ahead of dpo; at dpo's cost nothing told apart."
    assert verdict.read(two_paths()).short == "reinforce ahead of dpo."
    assert verdict.read(with_facts(two_paths(), **OWN)).short == ("at matched KL reinforce ahead of dpo.")


def test_the_same_words_are_not_said_twice() -> None:
    """At equal cost one arm cannot be placed, and so fewer pairs are not told apart."""

    def path(noise: float) -> list[tuple[float, float, float]]:
        return [(0.0, 0.0, 0.4), (2.0, 0.5, 0.5), (6.0, 1.5, 0.7 + noise)]

    late = [[(0.0, 0.0, 0.4), (8.0, 1.5, 0.68 + noise)] for noise in (0.1, -0.1, 0.03)]
    made = with_paths({
        "a": [path(0.1), path(-0.1), path(0.05)], "b": [path(-0.11), path(0.11), path(-0.01)], "late": late,
    })  # fmt: skip
    assert "late cannot be placed" in " ".join(verdict.read(made).sentences)
    assert verdict.read(made).short == "nothing told apart."


def test_of_many_arms_only_whom_the_best_is_ahead_of() -> None:
    assert verdict.read(twelve(10)).short == "dpo-b0.3 ahead of 9 of the other 11 arms."
    assert verdict.read(twelve(3)).short == "dpo-b0.3 ahead of no other arm."


@pytest.mark.parametrize(
    "made",
    [
        with_ends({"a": [0.9], "b": [0.8]}),
        with_ends({"a": [0.9, 0.91, 0.92]}),
        with_ends({"a": [1.0] * 3, "b": [1.0] * 3}),
        with_ends({"a": [0.65, 0.61, 0.7], "b": [0.6, 0.6, 0.6], "c": [0.5]}),
        with_ends({"a": [0.5, 0.501, 0.499, 0.9, 0.9], "b": [0.6, 0.6, 0.6]}),
        world(Path("x"), seeds=1, failed=[("ppo", 0), ("dpo", 0), ("reinforce", 0)]),
    ],
    ids=["one seed", "one arm", "equal", "one common seed", "no arm is the best", "nothing finished"],
)
def test_it_is_left_out_where_there_is_more_to_say(made: World) -> None:
    assert verdict.read(made).short == ""


def test_the_terminal_begins_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    show_ends(crossing(), Console())
    lines = capsys.readouterr().out.splitlines()
    (at,) = [i for i, text in enumerate(lines) if text.startswith("In short: ")]
    assert lines[at + 1].startswith("- At the end of training")
