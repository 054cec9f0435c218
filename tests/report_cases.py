"""The comparisons that several tests of the report ask of: settings changed, answers by prompt, many arms."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from report_world import ARMS, World, with_ends, with_paths, world

from eval.report.caveats.collected import Caveat
from eval.report.numbers.frames import evaluations

OWN = {"beta_is_objective": False, "labels": "were written by people"}
"""The facts of pairs that people wrote: the β of DPO is not the objective's."""


def with_facts(made: World, **facts: Any) -> World:
    """The comparison with these facts in place of its own."""
    return dataclasses.replace(made, facts={**made.facts, **facts})


def with_betas(made: World, *betas: float) -> World:
    """The arms, in their order, with these β."""
    arms = {
        arm: about | {"settings": about["settings"] | {"beta": beta}}
        for (arm, about), beta in zip(made.facts["arms"].items(), betas, strict=True)
    }
    return with_facts(made, arms=arms)


def answered(
    gain: float, seeds: int = 5, prompts: int = 64, noise: float = 0.2, draw: int = 0, arm: str = "ppo"
) -> World:
    """Arm and base differ by `gain`, and each evaluation of a prompt by `noise` besides."""
    generator = np.random.default_rng(draw)
    base_P = 0.5 + noise * generator.normal(size=prompts)
    judged_NP = 0.5 + gain + noise * generator.normal(size=(seeds, prompts))
    runs = [("base", 0, base_P), *((arm, seed, judged_P) for seed, judged_P in enumerate(judged_NP))]
    rows = [
        {"arm": who, "seed": seed, "prompt_id": i, "length": 10, "judge": judged}
        for who, seed, judged_P in runs
        for i, judged in enumerate(judged_P)
    ]
    made = with_ends({arm: list(judged_NP.mean(axis=1))}, base=float(base_P.mean()))
    return dataclasses.replace(made, samples=pd.DataFrame(rows))


def twelve(seeds: int) -> World:
    """Twelve arms, three algorithms at four β, a little apart from each other."""
    generator = np.random.default_rng(0)
    names = [f"{arm}-b{beta}" for beta in (0.02, 0.05, 0.1, 0.3) for arm in ARMS]
    scores = {
        name: list(0.5 + 0.02 * i + 0.03 * generator.normal(size=seeds)) for i, name in enumerate(names)
    }
    return with_ends(scores)


def _at_kls(level: float, noise: float, last: float) -> list[tuple[float, float, float]]:
    points = [(0.0, 0.4), (0.5, level - 0.1 + noise), (1.5, level + noise), (last, level + 0.01 + noise)]
    return [(float(i), kl, judge) for i, (kl, judge) in enumerate(points)]


def two_paths() -> World:
    """Two arms that can be told apart at their ends, at equal cost and at matched KL."""
    noises = (0.0, 0.01, -0.01, 0.005, -0.004)
    levels = {"reinforce": (0.7, 3.0), "dpo": (0.6, 2.0)}
    return with_paths(
        {
            arm: [_at_kls(level, noise * (1 + i), last) for noise in noises]
            for i, (arm, (level, last)) in enumerate(levels.items())
        }
    )


def told_by(caveat: Caveat, made: World) -> str:
    """What one caveat says of a comparison; empty where nothing."""
    return " ".join(caveat(made, evaluations(made)))


def with_settings(made: World, arm: str, **settings: Any) -> World:
    arms = {**made.facts["arms"]}
    arms[arm] = {**arms[arm], "settings": {**arms[arm]["settings"], **settings}}
    return with_facts(made, arms=arms)


def nothing_amiss() -> World:
    """Five seeds of each algorithm, of which no caveat has anything to say."""
    made = with_facts(world(Path("x"), seeds=5), notes=[])
    # 8 prompts are few, 16 are not.
    again = made.samples.assign(prompt_id=made.samples["prompt_id"] + " again")
    return dataclasses.replace(made, samples=pd.concat([made.samples, again], ignore_index=True))
