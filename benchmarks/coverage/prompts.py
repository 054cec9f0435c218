"""False claims that come of few test prompts: policies that are alike over all prompts, compared on the same few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd

from benchmarks.calibration.stored import METRICS
from benchmarks.calibration.trials import comparison
from benchmarks.page import markdown, rate
from eval.report.caveats.conditions import gain, unsettled
from eval.report.inputs import BASE, JUDGE
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.standings import own_end

COMPARISONS = 1_000
BASE_PROMPTS = 64
BASE_SEEDS = (3, 5, 10)
ARM_PROMPTS = (8, 64)
ARM_SEEDS = (3, 5, 10, 20)
TRAINING = (0.25, 0.5)
"""By how much training moves a run, in standard deviations of a response's noise."""

Judged = Mapping[str, np.ndarray]
"""Arm → judge_NP, its seeds' rewards by prompt."""


def base_claims(rng: np.random.Generator) -> str:
    """An arm that is no better and no worse than the base: seeds alone, and with prompts, as the verdict judges."""
    rows = []
    for errors in (0, 1, 3):
        for n in BASE_SEEDS:
            found = [_against_base(errors / np.sqrt(BASE_PROMPTS), n, rng) for _ in range(COMPARISONS)]
            rows.append([f"{errors} se", str(n), *(rate(claims) for claims in zip(*found, strict=True))])
    return markdown(["training moves a run by", "seeds", "seeds alone", "seeds and prompts"], rows)


def arm_claims(rng: np.random.Generator) -> str:
    """Two arms of which each prompt favours one by chance: told apart by their seeds, and left so by the report."""
    rows = []
    for prompts in ARM_PROMPTS:
        for training in TRAINING:
            for n in ARM_SEEDS:
                found = [_against_arm(prompts, training, n, rng) for _ in range(COMPARISONS)]
                shares = [rate(claims) for claims in zip(*found, strict=True)]
                rows.append([str(prompts), f"{training:g} sd", str(n), *shares])
    return markdown(["prompts", "training moves a run by", "seeds", "told apart", "and not named"], rows)


def _against_base(training: float, n: int, rng: np.random.Generator) -> tuple[bool, bool]:
    base_NP = rng.normal(size=(1, BASE_PROMPTS))
    arm_NP = rng.normal(size=(n, BASE_PROMPTS)) + training * rng.normal(size=(n, 1))
    view = replace(_ends({"arm": arm_NP}), base={JUDGE: float(base_NP.mean())})
    found = gain(_answers({BASE: base_NP, "arm": arm_NP}), view, "arm")
    return found.seeds.excludes_zero, found.estimate.excludes_zero


def _against_arm(prompts: int, training: float, n: int, rng: np.random.Generator) -> tuple[bool, bool]:
    judged = {
        arm: rng.normal(size=prompts)  # what the prompts favour, the same for all seeds of the arm
        + training * rng.normal(size=(n, 1))
        + rng.normal(size=(n, prompts))
        for arm in ("a", "b")
    }
    end = own_end(_ends(judged))
    told = any(pair.told_apart for pair in end.firm)
    return told, told and not unsettled(_answers(judged), end)


def _ends(judged: Judged) -> Evaluations:
    """Runs with these rewards at their end, as the report reads them."""
    paths = {arm: np.zeros((len(judge_NP), 1, len(METRICS))) for arm, judge_NP in judged.items()}
    for arm, judge_NP in judged.items():
        paths[arm][:, 0, METRICS.index(JUDGE)] = judge_NP.mean(axis=1)
    return comparison(paths)


def _answers(judged: Judged) -> SimpleNamespace:
    """The part of a report's input that holds every answer's reward."""
    parts = []
    for arm, judge_NP in judged.items():
        seeds, prompts = np.indices(judge_NP.shape).reshape(2, -1)
        columns = {"arm": arm, "seed": seeds, "prompt_id": prompts, "judge": judge_NP.ravel()}
        parts.append(pd.DataFrame(columns))
    return SimpleNamespace(samples=pd.concat(parts, ignore_index=True))
