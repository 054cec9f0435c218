"""Caveats on runs, seeds and budgets, and all of them together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_cases import told_by, with_facts, with_settings
from report_world import World, with_paths, world

from eval.report.caveats import collected
from eval.report.caveats import runs as caveats
from eval.report.numbers.frames import evaluations
from eval.report.numbers.standings import standings


def test_nothing_is_said_where_nothing_is_amiss(clean: World) -> None:
    assert collected.all_of(clean, evaluations(clean)) == []


def test_what_the_task_wants_said_comes_last(clean: World) -> None:
    made = with_facts(world(Path("x"), failed=[("ppo", 1)]), notes=["Mind the gap."])
    found = collected.all_of(made, evaluations(made))
    assert found[0].startswith("1 of 9 runs failed")
    assert found[-1] == "Mind the gap."


def test_runs_that_were_made_in_several_places(clean: World) -> None:
    here = clean.environment | {"runs": 3}
    there = here | {
        "packages": {**here["packages"], "torch": "2.12.0"},
        "hardware": {**here["hardware"], "processor": "another", "gpus": []},
    }
    now = here | {"hardware": {**here["hardware"], "processor": "a processor", "gpus": ["one"]}}

    def told(*before: dict[str, Any], **last: Any) -> str:
        environment = {**now, **last, "earlier": list(before)}
        return told_by(caveats.unlike_places, dataclasses.replace(clean, environment=environment))

    assert "(processor another → a processor, gpus none → one and torch 2.12.0 → 2.13.0)" in told(there)
    assert told(there) == told(there, there), "twice the same is told once"
    assert told() == told(now) == "", "the same place"
    assert told({**there, "runs": 0}) == told(there, runs=0) == "", (
        "where no run was made nothing is to be told"
    )


# Runs --------------------------------------------------------------------------------------------------


def test_failed_and_missing_runs(clean: World) -> None:
    made = world(Path("x"), failed=[("ppo", 1)])
    runs = made.runs.copy()
    runs.loc[(runs["arm"] == "dpo") & (runs["seed"] == 2), "status"] = "missing"
    text = told_by(caveats.unfinished, dataclasses.replace(made, runs=runs))
    assert "1 of 9 runs failed (ppo seed 1). Means describe the runs that finished" in text
    assert "1 of 9 runs is still missing" in text
    assert told_by(caveats.unfinished, clean) == ""


def test_a_diverged_run_is_told_with_its_reason(clean: World) -> None:
    reason = "iteration 12 (update 40): its KL to the base is 7.1 nats a token (above 5)"
    runs = clean.runs.assign(diverged=["", reason, *[""] * (len(clean.runs) - 2)])
    text = told_by(caveats.diverged, dataclasses.replace(clean, runs=runs))
    assert text == f"reinforce seed 1 diverged at {reason}."
    all_ = caveats.diverged(
        clean, evaluations(dataclasses.replace(clean, runs=clean.runs.assign(diverged=reason)))
    )
    assert len(all_) == caveats.SHOWN + 1
    assert all_[-1] == "So did 12 more."
    assert told_by(caveats.diverged, dataclasses.replace(clean, runs=clean.runs.assign(diverged=""))) == ""


# How it was run ----------------------------------------------------------------------------------------


def with_events(made: World, ends: list[float], updates: int = 1) -> World:
    """Runs of ppo whose iterations ended at these fractions of the run."""
    rows = [
        {"arm": "ppo", "seed": seed, "iteration": i + 1, "updates": updates * (i + 1), "fraction": end}
        for seed in range(2)
        for i, end in enumerate(ends)
    ]
    return dataclasses.replace(made, events=pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("warmup", "ends", "fires"),
    [
        (0.1, [1.0], True),  # the only iteration began at 0
        (0.1, [0.5, 1.0], True),  # one of two began before 0.1
        (0.1, [0.34, 0.67, 1.0], False),
        (0.1, [0.02, 0.04, 0.06], True),  # ended (failed) within the warm-up
        (0.5, [0.25, 0.5, 0.75, 1.0], True),
        (0.4, [0.25, 0.5, 0.75, 1.0], True),
        (0.2, [0.25, 0.5, 0.75, 1.0], False),
        (0.0, [1.0], False),
    ],
)
def test_a_budget_that_ended_in_warm_up(warmup: float, ends: list[float], fires: bool) -> None:
    made = with_settings(with_events(world(Path("x")), ends, updates=4), "ppo", warmup=warmup)
    text = told_by(caveats.warm_up, made)
    assert bool(text) == fires
    assert not fires or text.startswith("ppo spent half or more")


def test_an_arm_that_stopped_by_itself(clean: World) -> None:
    runs = clean.runs.copy()
    runs.loc[runs["arm"] == "dpo", "fraction"] = 0.68
    made = with_settings(dataclasses.replace(clean, runs=runs), "dpo", epochs=3)
    assert (
        told_by(caveats.unused_budget, made)
        == "dpo used only 68% of the budget (training ends after 3 epochs)."
    )
    assert told_by(caveats.unused_budget, clean) == ""


def test_readings_before_the_first_evaluation(clean: World) -> None:
    early = [(1.0, 0.0, 0.4), (9.0, 3.0, 0.9)]
    whole = [(1.0, 0.0, 0.4), (2.0, 1.0, 0.5), (5.0, 2.0, 0.6)]
    view = evaluations(with_paths({"early": [early], "whole": [whole]}))
    (text,) = caveats.rough_readings(view, standings(view))
    assert text == (
        "Evaluations of early at equal total cost and of early at matched KL lie too far apart to interpolate: in a new "
        "comparison more of them (--eval.points), or values of β that end at similar KL, would help."
    )
    view = evaluations(clean)
    assert caveats.rough_readings(view, standings(view)) == []


def at_once(updates: dict[str, list[int]]) -> list[str]:
    """What is said where each seed of these arms was past the matched KL at its first evaluation, after so many updates."""
    whole = [(1.0, 0.0, 0.4), (2.0, 1.0, 0.5), (5.0, 2.0, 0.6)]
    seeds = max(map(len, updates.values()))
    made = with_paths(
        {arm: [[(1.0, 0.0, 0.4), (1.2, 6.0, 0.9), (9.0, 5.0, 0.9)]] * seeds for arm in updates}
        | {"whole": [whole] * seeds}
    )
    results = made.results.copy()
    for arm, counts in updates.items():
        for seed, count in enumerate(counts):
            rows = (results["arm"] == arm) & (results["seed"] == seed) & (results["point"] == 1)
            results.loc[rows, "updates"] = count
    view = evaluations(dataclasses.replace(made, results=results))
    return caveats.rough_readings(view, standings(view))


def test_an_arm_that_passed_the_kl_in_a_few_updates() -> None:
    cost = "Evaluations of fast at equal total cost"
    assert [text for text in at_once({"fast": [3]}) if not text.startswith(cost)] == [
        "fast went past the matched KL before its first evaluation, within 3 updates, so evaluations can hardly place it there; "
        "a smaller learning rate or a warm-up would."
    ]
    assert "within 1 update, so" in at_once({"fast": [1, 1]})[0]
    assert "within 4 updates, so" in at_once({"fast": [3, 4]})[0]
    assert at_once({"a": [3], "b": [8]})[0].startswith(
        "a and b went past the matched KL before their first evaluation, within 3 to 8 updates, so evaluations can hardly "
        "place them there;"
    )


def test_of_many_updates_more_evaluations_would_see_more() -> None:
    (text,) = at_once({"slow": [caveats.FEW_UPDATES + 1]})
    assert "of slow at matched KL lie too far apart to interpolate: in a new comparison" in text
    first, second = at_once({"fast": [3], "slow": [40]})
    assert first.startswith("fast went past")
    assert "of slow at matched KL" in second
    assert "fast" not in second.partition("matched KL")[0].rpartition("and")[2]


def test_one_seed_whose_first_evaluation_came_late_would_be_placed_by_more() -> None:
    assert not any("went past" in text for text in at_once({"fast": [3, 40]}))


def test_arms_that_used_more_of_the_budget(clean: World) -> None:
    runs = clean.runs.copy()
    arms = list(dict.fromkeys(runs["arm"]))

    def told(*shares: float) -> str:
        for arm, share in zip(arms, shares, strict=True):
            runs.loc[runs["arm"] == arm, "fraction"] = share
        return told_by(caveats.overspent, dataclasses.replace(clean, runs=runs))

    assert f"{arms[0]} 120%, {arms[1]} 133% and {arms[2]} 105% of the budget were used" in told(
        1.2, 1.33, 1.05
    )
    assert told(1.0, 1.05, 1.09) == "", "a little above it, as every run"
    assert told(1.0, 1.05, 0.4) == "", "of one that stopped by itself another caveat speaks"
    assert f"{arms[0]} 130% and {arms[1]} 100% of" in told(1.3, 1.0, 0.4)
