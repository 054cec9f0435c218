"""Where arms are read, and how far in their training they are there: said where it is not alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import pytest
from report_world import Evaluation, World, with_paths

from eval.report.numbers.frames import evaluations
from eval.report.numbers.standings import equal_cost, matched_kl
from eval.report.sections import places

NOISES = (0.0, 0.01, -0.01)
PREPARED = [(8.0, 0.0, 0.4), (9.0, 1.0, 0.5), (28.0, 3.0, 0.8)]  # most of what the others cost in all
FAST = [(1.0, 0.0, 0.4), (4.0, 1.0, 0.6), (10.0, 2.0, 0.7)]


def seeds_of(paths: Mapping[str, Sequence[Evaluation]]) -> World:
    """Three seeds of each arm, whose judge differs by a little."""
    return with_paths(
        {arm: [[(c, k, j + noise) for c, k, j in path] for noise in NOISES] for arm, path in paths.items()}
    )


def cost_of(paths: Mapping[str, Sequence[Evaluation]]) -> str:
    return places.where(equal_cost(evaluations(seeds_of(paths))))


def kl_of(paths: Mapping[str, Sequence[Evaluation]]) -> str:
    return places.where(matched_kl(evaluations(seeds_of(paths))))


# Equal total cost --------------------------------------------------------------------------------------


def test_arms_that_are_read_before_their_end_are_named_with_what_they_have_spent() -> None:
    """2 of 20 FLOPs of training, after 8 of preparation."""
    assert cost_of({"ppo": PREPARED, "reinforce": PREPARED, "dpo": FAST}) == (
        "At equal total cost (10 FLOPs, where dpo ends; ppo and reinforce have spent 10% of their budget there, preparation "
        "being 8)"
    )


def test_arms_of_unlike_share_stand_apart_and_a_small_preparation_is_not_told() -> None:
    slow = [(2.0, 0.0, 0.4), (6.0, 1.0, 0.5), (18.0, 3.0, 0.8)]  # 8 of 16
    assert cost_of({"ppo": PREPARED, "slow": slow, "dpo": FAST}) == (
        "At equal total cost (10 FLOPs, where dpo ends; ppo has spent 10% of its budget there, slow 50%)"
    )


def test_many_arms_are_counted() -> None:
    lasts = {f"arm{i}": [(2.0, 0.0, 0.4), (6.0, 1.0, 0.5), (16.0 + 4 * i, 3.0, 0.8)] for i in range(4)}
    ends = {f"dpo{i}": FAST for i in range(4)}
    assert cost_of(lasts | ends) == (
        "At equal total cost (10 FLOPs, where 4 arms end; 4 arms have spent 31% to 57% of their budget there)"
    )


def test_arms_that_are_at_their_end_or_near_it_are_not_named() -> None:
    near = [(1.0, 0.0, 0.4), (4.0, 1.0, 0.6), (10.9, 2.0, 0.7)]
    assert (
        cost_of({"near": near, "dpo": FAST})
        == "At equal total cost (10 FLOPs, the most that all arms reached)"
    )


def test_the_share_is_of_the_budget_and_who_is_named_goes_by_the_training() -> None:
    """An arm that ends by itself after half its budget is at its end there; another of a budget of 40 has spent 2 of it."""
    made = seeds_of({"ppo": PREPARED, "dpo": FAST})
    view = evaluations(dataclasses.replace(made, runs=made.runs.assign(fraction=0.5)))
    standing = equal_cost(view)
    assert {arm: reading.spent for arm, reading in standing.readings.items()} == {
        "ppo": pytest.approx(0.05),
        "dpo": 0.5,
    }
    assert "where dpo ends; ppo has spent 5% of its budget there, " in places.where(standing)


def test_without_a_share_nothing_is_said_of_it() -> None:
    made = seeds_of({"ppo": PREPARED, "dpo": FAST})
    view = evaluations(dataclasses.replace(made, runs=made.runs.assign(fraction=math.nan)))
    assert places.where(equal_cost(view)) == "At equal total cost (10 FLOPs, the most that all arms reached)"


def test_the_share_is_counted_in_what_the_budget_counts() -> None:
    """Of 100 updates the first evaluation came after 50, though after 1 of 20 FLOPs."""
    made = seeds_of({"ppo": PREPARED, "dpo": FAST})
    results = made.results.assign(updates=made.results["point"] * 50.0)
    made = dataclasses.replace(made, results=results, facts={**made.facts, "budget": "100 updates"})
    assert evaluations(made).axis == "updates"
    reading = equal_cost(evaluations(made)).readings["ppo"]
    assert reading.trained == pytest.approx(0.5 + 0.5 / 19)


@pytest.mark.parametrize(
    ("budget", "axis"),
    [
        ("5e11 FLOPs", "flops"),
        ("1 update", "updates"),
        ("300 iterations", "updates"),
        ("20,000 completions", "completions"),
        ("20,000 generated tokens", "tokens"),
        ("90 seconds", "seconds"),
        (None, "flops"),
    ],
)
def test_what_a_budget_counts(budget: str | None, axis: str) -> None:
    made = seeds_of({"dpo": FAST})
    assert evaluations(dataclasses.replace(made, facts={**made.facts, "budget": budget})).axis == axis


# Matched KL --------------------------------------------------------------------------------------------


def test_one_pair_is_named_with_its_kl_and_who_passed_it_on_the_way() -> None:
    """√KL 2, at which dpo ends, lies half way between 1.5 and 2.5: after (1 + 9)/2 of 20."""
    far = [(0.0, 0.0, 0.4), (1.0, 2.25, 0.5), (9.0, 6.25, 0.7), (20.0, 9.0, 0.8)]
    near = [(0.0, 0.0, 0.4), (2.0, 1.0, 0.5), (3.0, 4.0, 0.65)]
    assert kl_of({"far": far, "near": near}) == (
        "At matched KL (near and far at 4.0 nats, which far passed after 25% of its training)"
    )
    assert kl_of({"a": near, "b": near}) == "At matched KL (a and b at 4.0 nats)"
    back = [(0.0, 0.0, 0.4), (2.0, 4.0, 0.6), (4.0, 9.0, 0.5)]
    assert kl_of({"far": far, "back": back, "near": near}) == (
        "At matched KL (each pair where its first run ended, 4.0 to 9.0 nats, after 25% of far's training, 50% of back's)"
    )


def test_near_the_base_a_kl_keeps_its_digits() -> None:
    near = [(0.0, 0.0, 0.4), (2.0, 0.04, 0.5), (3.0, 0.06, 0.6)]
    assert kl_of({"a": near, "b": near}) == "At matched KL (a and b at 0.06 nats)"


def test_of_many_arms_the_earliest_is_told() -> None:
    """The last at the first's end, √KL 2 on its way from 1 to 6: 5 + 9/5 of 14."""
    paths = {f"arm{i}": [(0.0, 0.0, 0.4), (5.0, 1.0, 0.5), (10.0 + i, (2.0 + i) ** 2, 0.6)] for i in range(5)}
    assert kl_of(paths) == (
        "At matched KL (each pair where its first run ended, 4.0 to 25.0 nats, the first after 49% of training)"
    )


def test_whom_a_comparison_cannot_place_is_said_with_the_kl() -> None:
    jumps = [(0.0, 0.0, 0.4), (1.0, 16.0, 0.6), (2.0, 25.0, 0.7)]
    near = [(0.0, 0.0, 0.4), (2.0, 1.0, 0.5), (3.0, 4.0, 0.6)]
    far = [(0.0, 0.0, 0.4), (2.0, 1.0, 0.5), (3.0, 9.0, 0.6)]
    standing = matched_kl(evaluations(seeds_of({"jumps": jumps, "near": near, "far": far})))
    assert (
        places.left_out(standing)
        == "; jumps cannot be placed: it passed 4.0 to 9.0 nats too far from any evaluation"
    )
    late = [(1.0, 0.0, 0.4), (20.0, 3.0, 0.8), (30.0, 3.0, 0.8)]
    cost = equal_cost(evaluations(seeds_of({"late": late, "dpo": FAST, "again": FAST})))
    assert places.left_out(cost) == "; late cannot be placed: it passed that cost too far from any evaluation"
