"""A finished comparison of any number of rows, written by the store as a real one is, that nobody trained:
`python -m benchmarks.comparison.synthetic FOLDER ROWS`."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from algos.engine.storage import write_json
from eval.directory.runs import Run
from eval.experiment import Experiment
from eval.process.measure import environment
from eval.settings.layers import layered
from eval.store import Store
from eval.tasks import preset

SEEDS = 10
PROMPTS = 64
EVALUATED = (
    "reward/judge", "reward/proxy", "win_rate", "kl/sequence", "kl/sequence_k1", "entropy", "perplexity/reference",
    "perplexity/heldout", "length", "eos_rate", "distinct_2", "preference_accuracy", "cost/train_flops",
    "cost/total_flops", "cost/train_seconds", "cost/total_seconds", "cost/peak_memory", "cost/preference_labels",
    "cost/reward_calls",
)  # fmt: skip
LOGGED = (
    "learning_rate", "length/train", "eos_rate/train", "loss", "gradient_norm", "entropy/train", "reward/train",
    "reward_std/train", "kl/train", "sampler_gap_max", "advantage_mean", "advantage_std", "policy_loss",
)  # fmt: skip


def comparison(folder: Path, rows: int) -> Store:
    """The default comparison with `SEEDS` seeds, whose runs together logged about `rows` iterations."""
    asked = Experiment.from_dict(layered(preset("reviews"), {"seeds": SEEDS}))
    store, draw = Store.create(folder, asked), np.random.default_rng(rows)
    store.write_base(_metrics(draw, 0.0), _samples(draw))
    _write_facts(store)
    for run in store.all_runs:
        _write_run(run, draw, asked.eval.points, rows // len(store.all_runs))
    names = {f"{arm}-s{seed}": arm for seed in asked.training_seeds for arm in asked.algos}
    matches = {
        name: {other: float(draw.uniform()) for other in asked.algos if other != arm}
        for name, arm in names.items()
    }
    write_json(store.path / "matches.json", matches)
    store.integrity.note()
    return store


def _write_facts(store: Store) -> None:
    asked = store.experiment
    arms = {
        name: {
            "algorithm": arm.name,
            "source": arm.needs.source,
            "settings": {"beta": arm.beta},
        }
        for name, arm in asked.arms.items()
    }
    write_json(store.path / "facts.json", {"task": "reviews", "budget": asked.budget, "arms": arms})
    write_json(store.path / "environment.json", environment("", 1, 1))


def _write_run(run: Run, draw: np.random.Generator, points: int, iterations: int) -> None:
    run.begin()
    run.append("events", *_events(draw, iterations))
    run.append(
        "rows",
        *(
            {"point": point, **_spent((point / points) ** 2), "metrics": _metrics(draw, point / points)}
            for point in range(points + 1)
        ),
    )
    run.append("samples", *({"point": points, **sample} for sample in _samples(draw)))
    run.finish(status="done", fraction=1.0, updates=iterations, seconds=60.0)


def _events(draw: np.random.Generator, iterations: int) -> Iterator[dict[str, float]]:
    noise = draw.normal(1.0, 0.1, (iterations, len(LOGGED)))
    for i, values in enumerate(noise.tolist()):
        share = (i + 1) / iterations
        logged = {name: value * math.exp(-share) for name, value in zip(LOGGED, values, strict=True)}
        yield {"iteration": i + 1, "fraction": share, **_spent(share), "updates": i + 1, **logged}


def _spent(share: float) -> dict[str, float]:
    """Of a whole run's cost."""
    whole = {"updates": 200, "completions": 12_800, "tokens": 300_000, "flops": 5e11, "seconds": 60.0}
    return {name: share * value for name, value in whole.items()}


def _metrics(draw: np.random.Generator, share: float) -> dict[str, float]:
    """Positive numbers that grow along a run."""
    return {name: 0.1 + share * float(draw.uniform(0.3, 0.5)) for name in EVALUATED}


def _samples(draw: np.random.Generator) -> Iterator[dict[str, object]]:
    for prompt in range(PROMPTS):
        judge, proxy, kl = draw.normal(0.5, 0.1, 3).tolist()
        yield {
            "prompt_id": prompt, "sample": 0, "prompt": f"the {prompt}th film", "completion": "was rather long",
            "judge": judge, "proxy": proxy, "length": 12, "ended": True, "kl": kl,
        }  # fmt: skip


if __name__ == "__main__":
    comparison(Path(sys.argv[1]), int(sys.argv[2]))
