"""A whole comparison: materials, the base's evaluation, every run, the matches between arms, the report."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import torch

from algos import Policy, RunError, UserError
from algos.engine.storage import write_json
from eval.console import Console
from eval.judge import wins
from eval.launch import launch, run_jobs
from eval.measure import environment
from eval.metrics import Evaluator
from eval.store import Store
from eval.tasks import materials_of
from eval.tasks.materials import Materials
from eval.workshop import Workshop


def compare(store: Store, workshop: Workshop, workers: int, console: Console, command: str) -> Path:
    """Runs what is missing and writes the report; returns its path. Raises UserError for what the user can mend."""
    started = _now()
    experiment = store.asked
    torch.set_num_threads(experiment.threads_per_run)
    materials = _prepare(store, workshop, console)
    if not store.base_metrics:
        with console.stage("evaluating the base"):
            _evaluate_base(store, materials)
    waiting = [run for run in store.all_runs if run.status["status"] != "done"]
    finished = len(store.all_runs) - len(waiting)
    if finished:
        console.say(f"{finished} of {len(store.all_runs)} runs are there already")
    _write_facts(store, materials)
    about = environment(command, experiment.threads_per_run, workers) | {"started": started}
    write_json(store.path / "environment.json", about)
    if waiting:
        with console.runs(len(waiting)) as progress:
            launch(run_jobs(waiting, store.path), workers, progress.update)
    with console.stage("matching the arms"):
        _match(store, materials)
    write_json(store.path / "environment.json", about | {"finished": _now()})
    with console.stage("drawing the report"):
        return draw(store)


def draw(store: Store) -> Path:
    """The report of whatever the directory holds, drawn again."""
    from eval.report.page import write_report

    return write_report(Store.open(store.path), store.path)


def _prepare(store: Store, workshop: Workshop, console: Console) -> Materials:
    """Materials for every data seed, made once and kept with the comparison."""
    experiment = store.asked
    seeds = list(dict.fromkeys(experiment.data_seed_of(seed) for seed in range(experiment.seeds)))
    wants_pairs = any(arm.needs.source == "pairs" for arm in experiment.arms.values())
    for seed in seeds:
        folder = store.path / "materials" / str(seed)
        found = Materials.load(folder)
        # An arm that was added may need pairs that the arms before it did not.
        if found is None or (wants_pairs and not found.pairs):
            with console.stage(
                "preparing model, data and reward" + (f" (data seed {seed})" if len(seeds) > 1 else "")
            ):
                try:
                    materials_of(experiment, workshop, seed).save(folder)
                except RunError as error:  # a reward that fails on the base's samples fails everywhere
                    raise UserError(str(error)) from error
    return store.materials(seeds[0])


def _evaluate_base(store: Store, materials: Materials) -> None:
    """The untrained model on the test prompts: point 0 of every run. A reward that fails here fails for all,
    so it is the user's to mend."""
    experiment = store.asked
    policy = Policy.load(
        materials.model,
        dtype=experiment.dtype,
        device=experiment.device,
        trust_remote_code=experiment.trust_remote_code,
    )
    try:
        evaluated = Evaluator(policy, materials, experiment)()
    except RunError as error:
        raise UserError(str(error)) from error
    store.write_base(evaluated.metrics, evaluated.samples)


def _match(store: Store, materials: Materials) -> None:
    """Win rates of every two arms, seed by seed, on the same prompts."""
    judge = materials.judge.judge("cpu")
    found: dict[str, dict[str, float]] = {}
    done = {
        (run.arm, run.seed): run.read("samples") for run in store.all_runs if run.status["status"] == "done"
    }
    for (arm, seed), samples in done.items():
        rows = [materials.test_prompts[record["prompt_id"]] for record in samples]
        rivals = {
            other: done[other, seed] for other in store.asked.algos if other != arm and (other, seed) in done
        }
        found[f"{arm}-s{seed}"] = {
            other: wins(judge, rows, samples, theirs) for other, theirs in rivals.items()
        }
    write_json(store.path / "matches.json", found)


def _write_facts(store: Store, materials: Materials) -> None:
    experiment = store.asked
    arms: dict[str, dict[str, Any]] = {}
    plain = experiment.to_dict()["hyperparameters"]
    for name, arm in experiment.arms.items():
        settings = {
            **plain[arm.name],
            **{k: v for k, v in experiment.variants.get(name, {}).items() if k != "algorithm"},
        }
        alone = f"rlhf-compare --config {store.path}/experiment.yaml --algos {name} --seeds 1"
        arms[name] = {"algorithm": arm.name, "settings": settings, "train_alone": alone}
    commands = {
        "repeat": f"rlhf-compare --config {store.path}/experiment.yaml",
        "more_seeds": f"rlhf-compare --resume {store.path} --seeds {experiment.seeds + 2}",
    }
    write_json(
        store.path / "facts.json",
        {**materials.facts, "budget": experiment.budget, "arms": arms, "commands": commands},
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
