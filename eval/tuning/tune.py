"""Tuning: every arm gets the same number of tries at the same budget, on validation prompts, before the comparison.

The tries are a comparison of their own in `tuning/`, with arms `ppo-try-1`, …: its runs are made, kept and resumed as
any other's. Its prompts and training seeds are none that the comparison's runs have or are judged by.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from algos import Algorithm, Budget, UserError
from algos.engine.batches.prompts import encode_prompts
from algos.engine.storage import write_json
from eval.console import Console
from eval.experiment import Experiment
from eval.process.workers import Workers
from eval.run import evaluate_base, load_base, run_jobs
from eval.settings.layers import plain
from eval.settings.limits import TUNING_SEED
from eval.settings.resume import CARRIED_OUT
from eval.store import Run, Store
from eval.tasks.materials import Materials, Rows
from eval.tuning.search import Space, name_of
from eval.tuning.settled import settled, unsettled
from eval.tuning.tries import OBJECTIVE, STARTUP, Try, best, next_settings, read_try


@dataclass(frozen=True)
class _Arm:
    """An arm to be tuned: the settings it begins with, those that its variant names, and what may be tried."""

    name: str
    start: Algorithm
    named: dict[str, Any]
    space: Space

    def variant(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"algorithm": self.start.name, **self.named, **settings}


def tune(store: Store, workers: Workers, console: Console) -> None:
    """Finds settings for the arms that have none yet and writes them into the comparison's experiment.

    Goes on with the tries that are there. What was tried, what it came to and what it cost is in tuning/choice.json.
    Raises UserError where no validation prompt can be used.
    """
    _tell_again(store)
    if not store.experiment.untuned:
        return
    arms, tuning = _begin(store)
    console.say(
        f"tuning {', '.join(arm.name for arm in arms)}: {store.experiment.tune} tries each, on validation prompts"
    )
    with console.stage("preparing to tune"):
        _prepare(store, tuning)
    _run_tries(tuning, arms, store.experiment.tune, workers, console)
    found = {arm.name: _tries(tuning, arm, range(1, store.experiment.tune + 1)) for arm in arms}
    _write_choice(store, tuning, arms, found)
    chosen = {name: tried.settings if (tried := best(tries)) else {} for name, tries in found.items()}
    store.commit(settled(store.experiment, {arm.name: arm.start for arm in arms}, chosen))
    for arm in arms:
        console.say(_outcome(arm, found[arm.name]))


def _begin(store: Store) -> tuple[list[_Arm], Store]:
    """The arms to tune, and the comparison of tries, which may have some already."""
    folder, start = store.path / "tuning", store.experiment
    begun = (folder / "experiment.yaml").is_file()
    if begun:  # Arms that are added later begin where the others began, not where tuning took them.
        start = replace(start, hyperparameters=Store.open(folder).experiment.hyperparameters)
    arms = _arms(start, start.untuned)
    searched = store.experiment.search | {arm.name: plain(arm.space) for arm in arms}
    store.commit(replace(store.experiment, search=searched))
    if not begun:
        return arms, Store.create(folder, _comparison_of_tries(start, arms))
    tuning = Store.open(folder)
    asked = {name: getattr(store.experiment, name) for name in CARRIED_OUT}
    tuning.commit(replace(tuning.experiment, **asked))
    return arms, tuning


def _arms(start: Experiment, names: Iterable[str]) -> list[_Arm]:
    return [_Arm(name, start.arm(name), start.named_by(name), start.space(name)) for name in names]


def _tell_again(store: Store) -> None:
    """Where tuning/choice.json is gone: what the tries came to, which are all there, of the arms that have been tuned."""
    tuned, folder = store.experiment.before_tuning, store.path / "tuning"
    if not tuned or store.tuning or not (folder / "experiment.yaml").is_file():
        return
    tuning = Store.open(folder)
    start = unsettled(store.experiment, tuning.experiment.hyperparameters)
    arms = _arms(start, [name for name in tuned if name_of(name, 1) in tuning.experiment.algos])
    numbers = range(1, store.experiment.tune + 1)
    _write_choice(store, tuning, arms, {arm.name: _tries(tuning, arm, numbers) for arm in arms})


def _comparison_of_tries(experiment: Experiment, arms: Sequence[_Arm]) -> Experiment:
    """The first try of every arm, each in a run as the comparison's own but for prompts and seeds."""
    variants = {name_of(arm.name, 1): arm.variant(_settings(arm, 1, ())) for arm in arms}
    return replace(
        experiment,
        algos=tuple(variants),
        variants=variants,
        seeds=experiment.tune_seeds,
        first_seed=TUNING_SEED,
        eval=replace(experiment.eval, points=1),
        tune=0,
        search={},
        before_tuning={},
    )


def _settings(arm: _Arm, number: int, history: Sequence[Try]) -> dict[str, Any]:
    return next_settings(arm.start, arm.name, number, arm.space, history)


def _prepare(store: Store, tuning: Store) -> None:
    """The comparison's materials with validation prompts in place of the test's, and without any other text of the
    test; the base's answers to them."""
    experiment = tuning.experiment
    for seed in dict.fromkeys(map(experiment.data_seed_of, experiment.training_seeds)):
        materials = store.materials(seed)
        prompts = _validation_prompts(experiment, materials)
        shown = replace(materials, test_prompts=prompts, heldout_pairs=(), heldout_texts=())
        shown.save(tuning.path / "materials" / str(seed))
    if not tuning.base_metrics:
        evaluate_base(tuning, tuning.materials(experiment.data_seed_of(experiment.first_seed)))


def _validation_prompts(experiment: Experiment, materials: Materials) -> Rows:
    """As many as evaluation asks for, of those that fit the model. Raises UserError where there are none."""
    base, length = load_base(experiment, materials), experiment.sampling.max_new_tokens
    fitting, _ = encode_prompts(base, materials.validation_prompts, length, experiment.truncate_prompts)
    if not fitting:
        raise UserError(
            f"tuning needs validation prompts that fit the model; got none of {len(materials.validation_prompts)}. "
            "Give more prompts, or leave --tune out."
        )
    return [prompt.row for prompt in fitting[: experiment.eval.prompts]]


def _rounds(tries: int) -> list[range]:
    """Tries that may run at the same time: those that depend on no other, then one after another."""
    startup = min(STARTUP, tries)
    return [range(1, startup + 1), *(range(number, number + 1) for number in range(startup + 1, tries + 1))]


def _run_tries(tuning: Store, arms: Sequence[_Arm], tries: int, workers: Workers, console: Console) -> None:
    """Round by round, so that an interrupted tuning is balanced between the arms."""
    runs = _runs(tuning, arms, range(1, tries + 1))
    with console.runs(sum(_missing(run) for run in runs)) as progress:
        for numbers in _rounds(tries):
            _declare(tuning, arms, numbers)
            runs = _runs(tuning, arms, numbers)
            workers.do(run_jobs([run for run in runs if _missing(run)], tuning.path), progress.update)
            for run in runs:
                _drop_weights(run)
            tuning.integrity.note()


def _runs(tuning: Store, arms: Sequence[_Arm], numbers: range) -> list[Run]:
    seeds = tuning.experiment.training_seeds
    return [tuning.run(name_of(arm.name, n), seed) for n in numbers for seed in seeds for arm in arms]


def _drop_weights(run: Run) -> None:
    """A try's weights are not used again, and those of a large model take gigabytes."""
    if run.status.get("policy"):
        run.finish(**run.status | {"policy": ""})
    for weights in (run.folder / "policy", run.checkpoints):
        shutil.rmtree(weights, ignore_errors=True)


def _missing(run: Run) -> bool:
    """A failed try has told what it had to tell: it is not run again, or later tries would change."""
    return bool(run.status["status"] == "missing")


def _declare(tuning: Store, arms: Sequence[_Arm], numbers: range) -> None:
    """Writes the tries down as arms of their comparison, where they are not yet."""
    variants = dict(tuning.experiment.variants)
    for arm in arms:
        history = _tries(tuning, arm, range(1, numbers[0]))
        for number in numbers:
            name = name_of(arm.name, number)
            if name not in variants:
                variants[name] = arm.variant(_settings(arm, number, history))
    tuning.commit(replace(tuning.experiment, algos=tuple(variants), variants=variants))


def _tries(tuning: Store, arm: _Arm, numbers: range) -> list[Try]:
    return [read_try(tuning, arm.name, number, arm.space) for number in numbers]


def _write_choice(store: Store, tuning: Store, arms: Sequence[_Arm], found: Mapping[str, list[Try]]) -> None:
    """tuning/choice.json; arms that were tuned before stay in it."""
    told = dict(store.tuning.get("arms", {}))
    for arm in arms:
        chosen = best(found[arm.name])
        told[arm.name] = {
            "algorithm": arm.start.name,
            "space": plain(arm.space),
            "tries": [asdict(tried) for tried in found[arm.name]],
            "chosen": chosen.number if chosen else None,
        }
    about = {
        "objective": OBJECTIVE,
        "prompts": len({record["prompt_id"] for record in tuning.base_samples}),
        "seeds": list(tuning.experiment.training_seeds),
        "budget": Budget.parse(tuning.experiment.budget).told,
        "tries": store.experiment.tune,
    }
    write_json(tuning.path / "choice.json", about | {"arms": told})


def _outcome(arm: _Arm, tries: Sequence[Try]) -> str:
    chosen = best(tries)
    if chosen is None:
        return f"{arm.name}: all {len(tries)} tries failed; its settings stay as they are"
    first = "failed" if tries[0].value is None else f"{tries[0].value:.3f}"
    settings = ", ".join(f"{name} {value}" for name, value in chosen.settings.items())
    return f"{arm.name}: try {chosen.number} of {len(tries)} is the best, {OBJECTIVE} {chosen.value:.3f} (as it began: {first}); {settings}"
