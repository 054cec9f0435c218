"""Comparisons made of numbers alone, for the tests of the report: shapes like real ones, any size, any damage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.frontier.pool import Pool

ARMS = {"reinforce": "reinforce", "ppo": "ppo", "dpo": "dpo"}
POINTS = 6
ADJECTIVES = ("dull", "dreary", "superb", "great")
PROMPTS = [
    f"the {noun} of this film"
    for noun in ("story", "plot", "acting", "script", "ending", "music", "pace", "cast")
]
LOGGED = {
    "reinforce": (
        "loss",
        "learning_rate",
        "gradient_norm",
        "reward/train",
        "kl/train",
        "length/train",
        "baseline",
    ),
    "ppo": (
        "loss",
        "learning_rate",
        "gradient_norm",
        "reward/train",
        "kl/train",
        "clip_fraction",
        "ratio_max",
        "beta",
    ),
    "dpo": ("loss", "learning_rate", "gradient_norm", "chosen_logps", "rejected_logps", "margin", "accuracy"),
}


@dataclass(frozen=True)
class World:
    """A plain filling of `eval.report.inputs.ReportInput`."""

    path: Path
    results: pd.DataFrame
    events: pd.DataFrame
    samples: pd.DataFrame
    runs: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    tuning: dict[str, Any] = field(default_factory=dict)
    pool: Pool | None = None


def world(
    path: Path,
    arms: dict[str, str] | None = None,
    seeds: int = 3,
    failed: Sequence[tuple[str, int]] = (),
    text: str | None = None,
) -> World:
    """A comparison of `arms` over `seeds`; runs in `failed` stop in the middle; `text` replaces every completion."""
    arms = ARMS if arms is None else arms
    rows = [row | {"status": "done"} for row in _base_rows()]
    events, samples = [], _samples("base", "base", 0, 0, text)
    for index, (arm, algorithm) in enumerate(arms.items()):
        for seed in range(seeds):
            last = POINTS // 2 if (arm, seed) in failed else POINTS
            generator = np.random.default_rng([index, seed])
            status = "failed" if (arm, seed) in failed else "done"
            run_rows = _run_rows(arm, algorithm, seed, last, index, list(arms), generator)
            rows += [row | {"status": status} for row in run_rows]
            events += _events(arm, algorithm, seed, last, generator)
            samples += _samples(arm, algorithm, seed, last, text)
    return World(
        path, pd.DataFrame(rows), pd.DataFrame(events), pd.DataFrame(samples), _runs(arms, seeds, failed),
        {"task": "reviews", "model": None, "seeds": list(range(seeds)), "arms": dict(arms)},
        _environment(), _facts(arms),
    )  # fmt: skip


def with_ends(scores: Mapping[str, Sequence[float]], base: float = 0.5) -> World:
    """A comparison whose judge rewards at the end are `scores` (arm → one a seed; fewer than others: nan)."""
    made = world(Path("reports/x"), {arm: arm for arm in scores}, max(map(len, scores.values())))
    results = made.results.copy()
    judged = (results["metric"] == "reward/judge") & (results["point"] == POINTS)
    results.loc[judged, "value"] = [
        scores[arm][seed] if seed < len(scores[arm]) else math.nan
        for arm, seed in results.loc[judged, ["arm", "seed"]].itertuples(index=False)
    ]
    results.loc[(results["metric"] == "reward/judge") & (results["arm"] == "base"), "value"] = base
    return replace(made, results=results)


Evaluation = tuple[float, float, float]  # total cost, KL, judge reward


def with_paths(paths: Mapping[str, Sequence[Sequence[Evaluation]]]) -> World:
    """A comparison whose runs were evaluated so: arm → a list a seed → (total cost, KL, judge) a point, the start first."""
    made = world(Path("reports/x"), {arm: arm for arm in paths}, max(map(len, paths.values())))
    names = ("cost/total_flops", "kl/sequence", "reward/judge")
    rows = [
        _keys(arm, arm, seed, point) | {"flops": evaluation[0] - points[0][0], "metric": name, "value": value}
        for arm, runs in paths.items()
        for seed, points in enumerate(runs)
        for point, evaluation in enumerate(points)
        for name, value in zip(names, evaluation, strict=True)
    ]
    there = {(row["arm"], row["seed"]) for row in rows}
    runs = made.runs[[key in there for key in zip(made.runs["arm"], made.runs["seed"], strict=True)]]
    return replace(made, results=pd.DataFrame([*_base_rows(), *rows]), runs=runs.reset_index(drop=True))


def _keys(arm: str, algorithm: str, seed: int, point: int, scale: float = 1.0) -> dict[str, Any]:
    share = point / POINTS
    spent = {
        "updates": 200 * scale,
        "completions": 12_800,
        "tokens": 256_000,
        "flops": 2.1e13,
        "seconds": 27.0 * scale,
    }
    return {"arm": arm, "algorithm": algorithm, "seed": seed, "point": point} | {
        k: v * share for k, v in spent.items()
    }


def _metrics(share: float, speed: float, noise: float) -> dict[str, float]:
    kl = 6.0 * speed * share**1.3
    return {
        "reward/judge": 0.44 + 0.5 * math.sqrt(kl) - 0.13 * kl + noise,
        "reward/proxy": 0.51 + 1.1 * math.sqrt(kl) - 0.08 * kl + noise,
        "kl/sequence": kl,
        "length": 14.2 + 6 * share + 10 * noise,
        "eos_rate": 0.98 - 0.1 * share,
        "distinct_2": 0.41 - 0.2 * share + noise,
        "entropy": 1.9 - share,
        "perplexity/reference": 6.1 - 2 * share,
        "perplexity/heldout": 6.1 + 3 * share + 10 * noise,
    }


def _base_rows() -> list[dict[str, Any]]:
    keys = _keys("base", "base", 0, 0)
    return [keys | {"metric": name, "value": value} for name, value in _metrics(0, 1, 0).items()]


def _run_rows(
    arm: str,
    algorithm: str,
    seed: int,
    last: int,
    index: int,
    arms: list[str],
    generator: np.random.Generator,
) -> list[dict[str, Any]]:
    rows = []
    speed = (0.55, 0.7, 1.0)[index % 3] * (1 + 0.13 * (index // 3))
    for point in range(last + 1):
        share = point / POINTS
        values = _metrics(
            share, speed * (1 + 0.06 * generator.normal()), float(0.012 * share * generator.normal())
        ) | _costs(index, share)
        if point == POINTS:
            values |= _last(index, arms, arm, generator)
        keys = _keys(arm, algorithm, seed, point, 4.0 if algorithm == "ppo" else 1.0)
        rows += [keys | {"metric": name, "value": value} for name, value in values.items()]
    return rows


def _last(index: int, arms: list[str], arm: str, generator: np.random.Generator) -> dict[str, float]:
    noise = generator.normal(size=len(arms) + 1) * 0.02
    others = {
        f"win_rate/{b}": 0.5 + 0.05 * (index - i) % 0.4 + noise[i] for i, b in enumerate(arms) if i > index
    }
    return others | {
        "win_rate": 0.81 + noise[-1],
    }


def _costs(index: int, share: float) -> dict[str, float]:
    """Spent so far; before training, what the preparation took."""
    return {
        "cost/train_flops": 2.1e13 * share,
        "cost/total_flops": 3e12 * (1 + index % 3) + 2.1e13 * share,
        "cost/train_seconds": 27.0 * share,
        "cost/total_seconds": 5.0 + 27.0 * share,
        "cost/peak_memory": 612.0,
        "cost/preference_labels": 2048.0,
        "cost/reward_calls": 12_800.0 * share,
    }


def _events(
    arm: str, algorithm: str, seed: int, last: int, generator: np.random.Generator
) -> list[dict[str, Any]]:
    rows = []
    for iteration in range(200 * last // POINTS):
        share = iteration / 200
        row = _keys(arm, algorithm, seed, 0) | {
            "iteration": iteration,
            "updates": iteration + 1,
            "fraction": share,
        }
        del row["point"]
        for i, name in enumerate(LOGGED.get(algorithm, LOGGED["reinforce"])):
            row[name] = (1 + 0.3 * generator.normal()) * math.exp(-i * share)
        row["learning_rate"] = 3e-4 * (1 - share)
        rows.append(row)
    return rows


def _samples(arm: str, algorithm: str, seed: int, point: int, text: str | None) -> list[dict[str, Any]]:
    keys = {"arm": arm, "algorithm": algorithm, "seed": seed, "point": point}
    rows = []
    for i, prompt in enumerate(PROMPTS):
        completion = text if text is not None else f"was rather {ADJECTIVES[(point + i) % 4]}"
        scores = {
            "judge": 0.3 + 0.08 * i,
            "proxy": 0.5 + 0.2 * i,
            "length": 12,
            "ended": i % 3 > 0,
            "kl": 0.4 * point,
        }
        rows.append(keys | {"prompt_id": f"p{i}", "prompt": prompt, "completion": completion} | scores)
    return rows


def _runs(arms: dict[str, str], seeds: int, failed: Sequence[tuple[str, int]]) -> pd.DataFrame:
    rows = []
    for arm, algorithm in arms.items():
        for seed in range(seeds):
            bad = (arm, seed) in failed
            error = "reward returned NaN for sample 3 of iteration 101" if bad else ""
            outcome = {"status": "failed" if bad else "done", "error": error, "fraction": 0.5 if bad else 1.0}
            policy = "" if bad else f"runs/{arm}-s{seed}/policy"
            rows.append(
                {
                    "arm": arm,
                    "algorithm": algorithm,
                    "seed": seed,
                    "updates": 200,
                    "seconds": 27.0,
                    "diverged": "",
                    "policy": policy,
                }
                | outcome
            )
    before = ["arm", "algorithm", "seed", "status", "error", "diverged"]
    columns = [*before, "fraction", "updates", "seconds", "policy"]
    return pd.DataFrame(rows, columns=columns)


def _environment() -> dict[str, Any]:
    return {
        "python": "3.12.3",
        "packages": {"torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0"},
        "hardware": {"cpu": "a processor", "cores": 2, "memory": "8 GiB"},
        "threads": 1,
        "commit": "0123456789abcdef",
        "command": "python run_compare.py --seeds 3",
        "started": "2026-01-02T03:04:05+00:00",
        "finished": "2026-01-02T03:08:01+00:00",
    }


def _facts(arms: dict[str, str]) -> dict[str, Any]:
    told = {"rows": 2, "lines": [17, 1203], "dropped": True}
    data = {
        "file": "pairs.jsonl",
        "read": 2100,
        "kept": 2048,
        "reasons": {"empty response": told, "duplicate": 50},
    }
    settings = {"beta": 0.05, "learning_rate": 3e-4}
    return {
        "task": "reviews",
        "judge_is_gold": True,
        "judge_is_reward": False,
        "beta_is_objective": True,
        "labels": "were drawn from the training reward at scale 1",
        "varies": ["pairs", "reward model"],
        "judge": "the task's hidden gold judge",
        "reward": "a reward model trained on 2,048 pairs",
        "reward_model": {"accuracy": 0.753, "pairs": 1843, "heldout_pairs": 205},
        "data": [data, {"file": "prompts (generated)", "read": 600, "kept": 600, "reasons": {}}],
        "notes": ["Pairs and reward model are shared by all seeds: intervals do not cover their luck."],
        "stages": [
            {"name": "base model", "seconds": 12.1, "flops": 3.1e12, "cached": False},
            {"name": "reward model", "seconds": 5.2, "flops": 9e11, "cached": True},
        ],
        "budget": "2.1e13 FLOPs",
        "arms": {
            arm: {
                "algorithm": algorithm,
                "source": "pairs" if algorithm == "dpo" else "prompts",
                "settings": settings,
            }
            for arm, algorithm in arms.items()
        },
    }
