"""One run: an arm with a seed, trained, evaluated along the way, written to its folder."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from algos import Policy, RunError, UserError, train
from algos.engine.algorithm import Algorithm
from algos.engine.errors import one_line
from algos.engine.memory import out_of_memory_as
from algos.engine.storage import DamagedFile, atomic_directory, refused, saving
from eval.experiment import Experiment
from eval.metrics import Evaluator
from eval.process.jobs import Job, Progress
from eval.process.stopping import Stopped
from eval.recording.card import write_card
from eval.recording.recorder import Recorder, RunState, costs_before
from eval.recording.trackers import Trackers
from eval.store import Run, Store
from eval.tasks.materials import Materials

TRIED_OUT = 4
"""Responses by which a pairwise judge is tried out: more than one, as it may answer for one alone."""
_TOO_LARGE = "not enough memory for the model beside its reward and judge. Take smaller ones with --reward and --judge."


def run_jobs(runs: Sequence[Run], directory: Path) -> list[Job]:
    """One job a run of the comparison in `directory`."""
    return [
        Job(run.folder.name, partial(execute, directory, run.arm, run.seed), partial(_lost, run))
        for run in runs
    ]


def _lost(run: Run, cause: str) -> str:
    run.finish(
        status="failed", error=f"the worker process died ({cause}). If memory ran out, use fewer --workers.",
        fraction=None, updates=None, seconds=None, policy="",
    )  # fmt: skip
    return "failed"


def execute(directory: Path, arm: str, seed: int, progress: Progress) -> str:
    """Trains and evaluates one run, from where it was; returns its status, or `stopped` where the user asked to.

    What goes wrong is the run's own: a row, no exception. But for what concerns every run: raises UserError
    where the disk does not take what is written, and DamagedFile for a file that is not what was written.
    """
    store = Store.open(directory)
    run = store.run(arm, seed)
    state = RunState()
    start = time.perf_counter()
    try:
        with run.alone():
            run.begin()
            status, reason = _outcome(store, run, progress, state)
            if status == "stopped":
                return status
            run.finish(
                status=status,
                error=reason,
                diverged=state.diverged,
                fraction=state.fraction,
                updates=state.updates,
                seconds=state.seconds + time.perf_counter() - start,
                policy=f"runs/{run.folder.name}/policy" if status == "done" else "",
                effective=state.effective,
            )
            return status
    except OSError as error:
        raise UserError(
            f"{run.folder} cannot be written: {one_line(error)}. Fix that, and go on with --resume {directory}."
        ) from error


def _outcome(store: Store, run: Run, progress: Progress, state: RunState) -> tuple[str, str]:
    """Status and reason."""
    try:
        _train(store, run, progress, state)
    except Stopped:
        return "stopped", ""
    except DamagedFile:
        raise
    except (RunError, UserError, torch.OutOfMemoryError, ArithmeticError) as error:
        return "failed", one_line(error)
    except Exception as error:
        if isinstance(error, OSError) and refused(error, store.path):
            raise
        # A defect, here or in a library: it costs this run, not the hours of the others.
        (run.folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        reason = f"unexpected {type(error).__name__}: {one_line(error)} See traceback.txt in its folder."
        return "failed", reason
    return "done", ""


def evaluate_base(store: Store, materials: Materials) -> None:
    """The untrained model on the test prompts: point 0 of every run. A reward or judge that fails here fails for all,
    so it is the user's to mend."""
    try:
        with out_of_memory_as(UserError, _TOO_LARGE):
            evaluator = Evaluator(load_base(store.experiment, materials), materials, store.experiment)
            evaluated = evaluator()
            _try_out(evaluator, evaluated.samples)
    except RunError as error:
        raise UserError(str(error)) from error
    store.write_base(evaluated.metrics, evaluated.samples)


def _try_out(evaluator: Evaluator, samples: Sequence[Mapping[str, Any]]) -> None:
    """Asks a pairwise judge about some of the base's responses against others: evaluation compared them with themselves,
    which asks nothing, and the first to ask would be a run that has trained. Raises RewardError."""
    if evaluator.judge.pairwise:
        some = samples[:TRIED_OUT]
        rows = [evaluator.prompts[record["prompt_id"]].row for record in some]
        texts = [record["completion"] for record in some]
        others = [b if a != b else f"{a}." for a, b in zip(texts, texts[1:] + texts[:1], strict=True)]
        evaluator.judge.prefers(rows, texts, others)


def load_base(experiment: Experiment, materials: Materials) -> Policy:
    """With adapters where adapters will be trained: the reference is then no copy."""
    return Policy.load(materials.model, lora=experiment.adapter, **experiment.loading)


def _train(store: Store, run: Run, progress: Progress, state: RunState) -> None:
    experiment = store.experiment
    torch.set_num_threads(experiment.threads_per_run)
    algorithm = experiment.arms[run.arm]
    progress(0.0, "loading")
    materials = store.materials(experiment.data_seed_of(run.seed))
    policy = Policy.load(
        materials.model,
        lora=experiment.adapter,
        gradient_checkpointing=experiment.gradient_checkpointing,
        **experiment.loading,
    )
    state.effective = _effective(experiment, algorithm, policy)
    evaluator = Evaluator(policy, materials, experiment, store.base_samples)
    recorded = algorithm.needs.source == "pairs"
    with Trackers(experiment.log_with, store.path, run.folder.name) as trackers:
        base, extra = _base_under(store, evaluator, materials), costs_before(algorithm, materials)
        history = train(
            algorithm,
            policy,
            prompts=None if recorded else materials.train_prompts,
            pairs=materials.pairs if recorded else None,
            reward=None if recorded else evaluator.reward,
            sampling=experiment.sampling,
            budget=experiment.budget,
            seed=run.seed,
            truncate_prompts=experiment.truncate_prompts,
            checkpoint=run.checkpoints,
            checkpoint_every=0,  # the hook saves, by the clock
            reference_cache=store.path / "materials" if recorded else None,
            micro_batch=experiment.micro_batch or None,
            hook=Recorder(store, run, evaluator, base, extra, progress, state, trackers),
        )
    state.effective |= {"left out": history.counts, "portions": policy.portions.limits}
    with atomic_directory(run.folder / "policy") as temporary:
        with saving(temporary):
            policy.save(temporary)
        write_card(store, run, temporary)


def _base_under(store: Store, evaluator: Evaluator, materials: Materials) -> dict[str, float]:
    """The base's metrics, with the training reward that this run's reward gives it: with --replicate-data every data seed
    has a reward model of its own, and the base was evaluated under the first."""
    experiment = store.experiment
    first = store.materials(experiment.data_seed_of(experiment.training_seeds[0]))
    if materials.reward == first.reward:
        return store.base_metrics
    return {**store.base_metrics, "reward/proxy": evaluator.proxy_of(store.base_samples)}


def _effective(experiment: Experiment, algorithm: Algorithm, policy: Policy) -> dict[str, Any]:
    """The settings a run was really made with."""
    return {
        "algorithm": {"name": algorithm.name, **asdict(algorithm)},
        "sampling": asdict(experiment.sampling),
        "budget": experiment.budget,
        "device": str(policy.device),
        "dtype": str(policy.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "parameters": policy.size,
        "trained parameters": sum(p.numel() for p in policy.trainable().values()),
        "longest sequence": policy.max_positions,
        "gradient checkpointing": policy.gradient_checkpointing,
    }
