"""A whole comparison: materials, the base's evaluation, every run, the matches between arms, the report."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from algos import Budget, RunError, UserError
from algos.engine.errors import one_line
from algos.engine.memory import out_of_memory_as
from algos.engine.storage import write_json
from eval.console import Console
from eval.data.accounting import summary
from eval.drawing import draw
from eval.experiment import Experiment
from eval.frontier.sampling import forget_pool, update_pool
from eval.matches import forget_matches, update_matches
from eval.process.jobs import Job, Update
from eval.process.workers import Workers
from eval.recording.session import Session
from eval.run import evaluate_base, run_jobs
from eval.settings.layers import plain
from eval.stages.cache import ArtefactCache
from eval.store import Run, Store
from eval.tasks import materials_of
from eval.tasks.materials import Materials
from eval.tasks.provenance import FunctionFiles, changed_functions, check_inputs, models_missing
from eval.tuning.tune import tune

Facts = dict[str, Any]
_DRAWN = ("reward_model", "stages")  # facts that each data seed has of its own
_TOO_LARGE = (
    "out of memory in preparing model, data and reward. Take a smaller model, or name --reward and --judge."
)
_LOOKED = 60.0
"""Seconds between two looks at what reward and judge have written, beside one at every run's end."""


def compare(store: Store, cache: ArtefactCache, workers: Workers, console: Console, command: str) -> Path:
    """Runs what is missing and writes the report; returns its path. Raises UserError for what the user can mend."""
    functions, session = FunctionFiles(store.path, store.experiment), Session(store, command, workers.count)
    try:
        return _Comparison(store, cache, workers, console, functions, session).carried_out()
    finally:
        _note_written(functions, console)


@dataclass(frozen=True)
class _Comparison:
    """A session of work on a comparison, step by step."""

    store: Store
    cache: ArtefactCache
    workers: Workers
    console: Console
    functions: FunctionFiles
    session: Session

    def carried_out(self) -> Path:
        """The order is the contract: whatever comes between two steps, an error, Ctrl-C or a kill, what is on the disk is
        true, and --resume begins with the first and skips what is there."""
        store, console = self.store, self.console
        self._get_ready()
        materials, drawn = _prepare(store, self.cache, console, self.functions)
        # Not before: an extension that cannot be prepared would stay, as arms are never taken out.
        store.commit(store.experiment)
        self._begin_session()
        self._evaluate_base(materials)
        tune(store, self.workers, console)
        _write_facts(store, materials, drawn)  # of arms as they were tuned
        waiting = self._waiting()
        self._forget(waiting)
        self._train(waiting)
        with console.stage("matching the arms"):
            update_matches(store, materials, console.say)
        reason = _draw_pool(store, self.workers, console)
        self.session.end(**({"no_frontier": reason} if reason else {}))
        store.integrity.note()
        with console.stage("drawing the report"):
            return draw(store)

    def _get_ready(self) -> None:
        store = self.store
        self.workers.expect(sum(run.status["status"] != "done" for run in store.all_runs))
        torch.set_num_threads(store.experiment.threads_per_run)
        # The first one's command is what repeats the comparison, also where it gets no further than this.
        if self.session.is_first:
            self.session.write()

    def _begin_session(self) -> None:
        """A session that only found that it cannot go on is none."""
        if self.session.changes:
            self.console.say(f"since this comparison was last worked on: {', '.join(self.session.changes)}")
        self.session.write()

    def _evaluate_base(self, materials: Materials) -> None:
        """Before anything is tuned or trained: a reward or judge that fails here would fail in every run."""
        if not self.store.base_metrics:
            with self.console.stage("evaluating the base"):
                evaluate_base(self.store, materials)
            _note_written(self.functions, self.console)

    def _waiting(self) -> list[Run]:
        """The runs that are to be made, those that failed among them."""
        runs = self.store.all_runs
        waiting = [run for run in runs if run.status["status"] != "done"]
        if finished := len(runs) - len(waiting):
            self.console.say(f"{finished} of {len(runs)} runs are there already")
        return waiting

    def _forget(self, waiting: Sequence[Run]) -> None:
        """What is told of runs before they are made again: after a kill none of it may stand beside other runs, and no run
        that had begun again may be missed."""
        self.store.integrity.note()
        self.store.integrity.forget(run.unit for run in waiting)
        forget_matches(self.store, waiting)
        forget_pool(self.store, waiting)

    def _train(self, waiting: Sequence[Run]) -> None:
        if not waiting:
            return
        with self.console.runs(len(waiting)) as progress:

            def update(job: Job, fraction: float, words: str) -> None:
                progress.update(job, fraction, words)
                self.session.update(job, fraction, words)

            self.workers.do(
                run_jobs(waiting, self.store.path),
                _noting(self.store, waiting, self.functions, self.console, update),
            )


def _noting(
    store: Store, waiting: Iterable[Run], functions: FunctionFiles, console: Console, update: Update
) -> Update:
    """Each run that has ended is missed from then on, should its files go, but none that is yet to be made again: as it
    begins it takes away what is left of the time that it failed. What reward and judge write is noted on the way, as after
    a kill nobody could tell it from what was changed since."""
    looked, again = float("-inf"), {run.unit for run in waiting}

    def told(job: Job, fraction: float, words: str) -> None:
        nonlocal looked
        update(job, fraction, words)
        ended = words in ("done", "failed")
        if ended:
            again.discard(f"runs/{job.name}")
            store.integrity.note(but=again)
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
        with out_of_memory_as(UserError, _TOO_LARGE):
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
