"""A whole comparison: materials, the base's evaluation, every run, the matches between arms, the report."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from algos import Budget, RunError, UserError
from algos.engine.errors import one_line
from algos.engine.storage import write_json
from eval import sessions
from eval.console import Console
from eval.data.accounting import summary
from eval.drawing import draw
from eval.experiment import Experiment
from eval.frontier.sampling import forget_pool, update_pool
from eval.matches import forget_matches, update_matches
from eval.process.jobs import Job, Update
from eval.process.measure import environment
from eval.process.workers import Workers
from eval.run import evaluate_base, run_jobs
from eval.settings.layers import plain
from eval.stages.cache import ArtefactCache
from eval.store import Store
from eval.tasks import materials_of
from eval.tasks.materials import Materials
from eval.tasks.provenance import FunctionFiles, changed_functions, check_inputs, models_missing
from eval.tuning.tune import tune

Facts = dict[str, Any]
_DRAWN = ("reward_model", "stages")  # facts that each data seed has of its own
_LOOKED = 60.0
"""Seconds between two looks at what reward and judge have written, beside one at every run's end."""


def compare(store: Store, cache: ArtefactCache, workers: Workers, console: Console, command: str) -> Path:
    """Runs what is missing and writes the report; returns its path. Raises UserError for what the user can mend."""
    functions = FunctionFiles(store.path, store.experiment)
    try:
        return _compare(store, cache, workers, console, command, functions)
    finally:
        _note_written(functions, console)


def _compare(
    store: Store,
    cache: ArtefactCache,
    workers: Workers,
    console: Console,
    command: str,
    functions: FunctionFiles,
) -> Path:
    started = _now()
    experiment = store.experiment
    workers.expect(sum(run.status["status"] != "done" for run in store.all_runs))
    torch.set_num_threads(experiment.threads_per_run)
    materials, drawn = _prepare(store, cache, console, functions)
    # Not before: an extension that cannot be prepared would stay, as arms are never taken out.
    store.commit(experiment)
    if not store.base_metrics:
        with console.stage("evaluating the base"):
            evaluate_base(store, materials)
        _note_written(functions, console)
    tune(store, workers, console)
    waiting = [run for run in store.all_runs if run.status["status"] != "done"]
    finished = len(store.all_runs) - len(waiting)
    if finished:
        console.say(f"{finished} of {len(store.all_runs)} runs are there already")
    _write_facts(store, materials, drawn)
    about = _session(store, environment(command, experiment.threads_per_run, workers.count), console) | {
        "started": started,
        "runs": len(waiting),
    }
    write_json(store.path / "environment.json", about)
    store.integrity.forget(waiting)
    store.integrity.note()
    forget_matches(store, waiting)
    forget_pool(store, waiting)
    if waiting:
        with console.runs(len(waiting)) as progress:
            workers.do(run_jobs(waiting, store.path), _noting(store, functions, console, progress.update))
    with console.stage("matching the arms"):
        update_matches(store, materials, console.say)
    if reason := _draw_pool(store, workers, console):
        about["no_frontier"] = reason
    write_json(store.path / "environment.json", about | {"finished": _now()})
    store.integrity.note()
    with console.stage("drawing the report"):
        return draw(store)


def _session(store: Store, now: dict[str, Any], console: Console) -> dict[str, Any]:
    """What environment.json holds of this session and those before; tells what is no longer as it was."""
    before = store.environment
    if before and (changed := sessions.changes(before, now)):
        console.say(f"since this comparison was last worked on: {', '.join(changed)}")
    return sessions.begun(before, now)


def _noting(store: Store, functions: FunctionFiles, console: Console, update: Update) -> Update:
    """Each run that has ended is missed from then on, should its files go. What reward and judge write is noted on the way,
    as after a kill nobody could tell it from what was changed since."""
    looked = float("-inf")

    def told(job: Job, fraction: float, words: str) -> None:
        nonlocal looked
        update(job, fraction, words)
        ended = words in ("done", "failed")
        if ended:
            store.integrity.note()
        if ended or time.monotonic() - looked > _LOOKED:
            _note_written(functions, console)
            looked = time.monotonic()

    return told


def _note_written(functions: FunctionFiles, console: Console) -> None:
    for name in functions.note():
        console.say(f"{name} changed while in use: --resume does not compare it from now on")


def _prepare(
    store: Store, cache: ArtefactCache, console: Console, functions: FunctionFiles
) -> tuple[Materials, dict[int, Facts]]:
    """Materials for every data seed, made once and kept with the comparison. Returns the first one's, and what each of
    them tells of itself."""
    experiment = store.experiment
    _begin_again_where_mended(store, console, functions)
    training_seeds = (*experiment.training_seeds, *experiment.tuning_seeds)
    seeds = list(dict.fromkeys(experiment.data_seed_of(seed) for seed in training_seeds))
    first: Materials | None = None
    told: dict[int, Facts] = {}
    for seed in seeds:
        folder = store.path / "materials" / str(seed)
        found = Materials.load(folder)
        made = None
        # An arm that was added may need pairs that the arms before it did not; what was built lies in the cache.
        if found is None or (experiment.wants_pairs and not found.pairs) or models_missing(found):
            with console.stage(
                "preparing model, data and reward" + (f" (data seed {seed})" if len(seeds) > 1 else "")
            ):
                made = _made(experiment, cache, seed)
        now = made or store.materials(seed)
        # The user's data are the same for every seed, whichever read them; the built-in task draws some anew.
        begun = [found if made else None, first if experiment.task == "custom" else None]
        check_inputs(functions, experiment, seed, now, [each for each in begun if each])
        if made:
            made.save(folder)
        first, told[seed] = first or now, now.facts
    for account in store.materials(seeds[0]).facts.get("data", []):
        console.say(summary(account))
    return store.materials(seeds[0]), told


def _made(experiment: Experiment, cache: ArtefactCache, seed: int) -> Materials:
    try:
        return materials_of(experiment, cache, seed)
    except RunError as error:  # a reward that fails on the base's samples fails everywhere
        raise UserError(str(error)) from error


def _begin_again_where_mended(store: Store, console: Console, functions: FunctionFiles) -> None:
    """A reward or judge may be mended until something has been evaluated with it; from then on it is another."""
    names = changed_functions(functions, store.experiment)
    if names and not store.evaluated:
        console.say(
            f"the {' and the '.join(names)} changed before anything was evaluated: the comparison begins again"
        )
        store.begin_again()


def _draw_pool(store: Store, workers: Workers, console: Console) -> str:
    """The frontier's samples. They are worth less than the runs: where they fail, the report goes without, and says why.
    Returns the reason, empty where there is none. Raises OSError where the disk does not take them."""
    if store.experiment.frontier.samples == 0 or not store.experiment.eval.is_plain:
        return ""
    with console.stage("sampling for the frontier"):
        try:
            update_pool(store, workers, lambda job, fraction, words: None)
        except (UserError, RunError) as error:
            console.say(f"no frontier: {error}")
            return one_line(error)
    return ""


def _write_facts(store: Store, materials: Materials, told: Mapping[int, Facts]) -> None:
    """What the report says beside numbers: what the first data seed's materials tell, of the others what they have of their
    own, and every arm's settings."""
    experiment = store.experiment
    arms = {
        name: {"algorithm": arm.name, "source": arm.needs.source, "settings": plain(arm)}
        for name, arm in experiment.arms.items()
    }
    facts = {**materials.facts, "budget": Budget.parse(experiment.budget).told, "arms": arms}
    seeds = dict.fromkeys(experiment.data_seed_of(seed) for seed in experiment.training_seeds)
    if len(seeds) > 1:
        own = {str(seed): {name: told[seed][name] for name in _DRAWN if name in told[seed]} for seed in seeds}
        facts["data_seeds"] = own
    write_json(store.path / "facts.json", facts)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
