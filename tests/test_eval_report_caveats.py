"""Caveats on runs, seeds and budgets, and all of them together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_cases import told_by, with_facts, with_settings
from report_world import ARMS, World, with_ends, with_paths, world

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


# Runs and seeds ----------------------------------------------------------------------------------------


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


def test_a_seed_far_from_the_others() -> None:
    near = [0.70, 0.71, 0.69, 0.705, 0.695]
    assert told_by(caveats.outlying, with_ends({"ppo": near})) == ""
    text = told_by(caveats.outlying, with_ends({"ppo": [*near[:4], 0.2], "dpo": near}))
    assert "ppo seed 4 (0.200, the others 0.690 to 0.710)" in text
    assert "dpo" not in text


def test_identical_seeds() -> None:
    text = told_by(caveats.identical, with_ends({"reinforce": [0.7, 0.7, 0.7], "ppo": [0.6, 0.62, 0.61]}))
    assert "All seeds of reinforce gave the same judge reward" in text
    assert "ppo" not in text
    assert "A bounded score may have reached its end" in text
    assert told_by(caveats.identical, with_ends({"reinforce": [0.7], "ppo": [0.7]})) == ""


def alike(made: World, *arms: str, but: tuple[int, str] | None = None) -> World:
    """`arms` end in every seed as the first of them, to the last bit; one seed and metric excepted."""
    results = made.results.copy()
    keyed = results.set_index(["arm", "seed", "point", "metric"])["value"]
    for place, row in results[results["arm"].isin(arms[1:])].iterrows():
        if (row["seed"], row["metric"]) != but and not row["metric"].startswith("win_rate/"):
            results.loc[place, "value"] = keyed[(arms[0], row["seed"], row["point"], row["metric"])]
    return dataclasses.replace(made, results=results)


def test_arms_that_did_the_same_in_every_seed() -> None:
    made = world(Path("x"))
    told = told_by(caveats.same_arms, alike(made, "ppo", "dpo"))
    assert told == (
        "ppo and dpo did the same in every seed: what differs in their settings had no effect in these runs."
    )
    assert told_by(caveats.same_arms, alike(made, *ARMS)).startswith("reinforce, ppo and dpo did the same")
    assert told_by(caveats.same_arms, made) == ""
    for metric in ("reward/judge", "kl/sequence"):
        assert told_by(caveats.same_arms, alike(made, "ppo", "dpo", but=(1, metric))) == ""
    assert told_by(caveats.same_arms, alike(world(Path("x"), seeds=1), "ppo", "dpo")) == "", (
        "one seed is no evidence"
    )
    runs = made.runs.copy()
    runs.loc[(runs["arm"] == "dpo") & (runs["seed"] == 1), "status"] = "failed"
    one_failed = dataclasses.replace(alike(made, "ppo", "dpo"), runs=runs)
    assert "ppo and dpo did the same" in told_by(caveats.same_arms, one_failed)


@pytest.mark.parametrize(("seeds", "words"), [(1, ""), (2, "With 2 seeds"), (4, "With 4 seeds"), (5, "")])
def test_few_seeds(seeds: int, words: str) -> None:
    text = told_by(caveats.few_seeds, world(Path("x"), seeds=seeds))
    assert words in text
    assert bool(words) == bool(text)


def test_the_middle_half_may_name_another_leader() -> None:
    steady = [0.60, 0.60, 0.62, 0.62, 0.62, 0.62, 0.64, 0.64]
    lucky = [0.55] * 6 + [0.99] * 2
    text = told_by(caveats.middle_half, with_ends({"lucky": lucky, "steady": steady}))
    assert "steady leads at the end of training with 0.620, before lucky with 0.550" in text
    assert told_by(caveats.middle_half, with_ends({"lucky": [0.9] * 7 + [0.8], "steady": steady})) == ""
    assert (
        told_by(caveats.middle_half, with_ends({"lucky": lucky[1:], "steady": steady[1:]})) == ""
    )  # seven seeds


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
    (text,) = caveats.rough_readings(standings(view))
    assert text == (
        "Evaluations of early at equal total cost and of early at matched KL lie too far apart to interpolate: more of them "
        "(--eval.points), or values of β that end at similar KL, would help."
    )
    assert caveats.rough_readings(standings(evaluations(clean))) == []


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
