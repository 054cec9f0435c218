"""Chooses β, learning rate and epochs of each algorithm on `reviews`, on validation prompts and seeds of their own.

    python -m benchmarks.choose_reviews            # the table of docs/reviews.md, about 20 minutes on 2 cores

Final comparisons use test prompts and seeds 0, 1, …; this uses validation prompts and seeds from 1000 on.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.process.quiet import quiet

GRID: dict[str, dict[str, list[Any]]] = {
    "reinforce": {"beta": [0.05, 0.1, 0.2], "learning_rate": [5e-4, 1e-3, 2e-3]},
    "ppo": {"beta": [0.05, 0.1, 0.2], "learning_rate": [5e-4, 1e-3, 2e-3]},
    "dpo": {"beta": [0.03, 0.1, 0.3, 1.0], "learning_rate": [1e-4, 3e-4, 1e-3], "epochs": [1, 2, 3]},
}
FIRST_SEED = 1000


def settings(name: str) -> Iterator[dict[str, Any]]:
    """Every combination of an algorithm's grid."""
    for values in itertools.product(*GRID[name].values()):
        yield dict(zip(GRID[name], values, strict=True))


def measure(job: tuple[str, dict[str, Any], int, Path]) -> dict[str, Any]:
    """One run, evaluated at its end on the validation prompts."""
    name, chosen, seed, cache = job
    quiet()
    import torch

    from algos import ALGORITHMS, Policy, train
    from eval.experiment import Experiment
    from eval.metrics import Evaluator
    from eval.settings.layers import layered
    from eval.stages.cache import ArtefactCache
    from eval.tasks import materials_of, preset

    torch.set_num_threads(1)
    experiment = Experiment.from_dict(layered(preset("reviews")))
    materials = materials_of(experiment, ArtefactCache(cache), 0)
    materials = replace(materials, test_prompts=materials.validation_prompts)
    policy = Policy.load(materials.model, device="cpu")
    evaluator = Evaluator(policy, materials, experiment)
    base = evaluator()
    evaluator = Evaluator(policy, materials, experiment, base.samples)
    data = (
        {"pairs": materials.pairs}
        if name == "dpo"
        else {"prompts": materials.train_prompts, "reward": evaluator.reward}
    )
    algorithm = replace(getattr(experiment.hyperparameters, name), **chosen)
    assert isinstance(algorithm, ALGORITHMS[name])
    history = train(
        algorithm, policy, **data, sampling=experiment.sampling, budget=experiment.budget, seed=seed
    )
    found = evaluator().metrics
    row = {key: found[key] for key in ("reward/judge", "reward/proxy", "kl/sequence")}
    return {"algorithm": name, **chosen, "seed": seed, **row, "seconds": history.rows[-1]["seconds"]}


def main() -> None:
    import pandas as pd

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algos", nargs="+", default=list(GRID))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/rlhf-compare").expanduser())
    options = parser.parse_args()
    jobs = [
        (name, chosen, FIRST_SEED + seed, options.cache)
        for name in options.algos
        for chosen in settings(name)
        for seed in range(options.seeds)
    ]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        rows = list(pool.imap(measure, jobs))
    frame = pd.DataFrame(rows)
    for name, group in frame.groupby("algorithm", sort=False):
        table = group.groupby(list(GRID[str(name)]), sort=False)[
            ["reward/judge", "reward/proxy", "kl/sequence", "seconds"]
        ]
        print(f"\n{name}\n{table.mean().round(3).to_string()}")


if __name__ == "__main__":
    main()
