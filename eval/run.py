"""One run: an arm with a seed, trained, evaluated along the way, written to its folder."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch

from algos import Policy, RunError, UserError, train
from algos.engine.algorithm import Algorithm
from algos.engine.budget import Budget, Meter
from algos.engine.errors import one_line
from algos.engine.state import TrainState
from eval.launch import Report
from eval.measure import PeakMemory
from eval.metrics import Evaluator
from eval.store import COUNTS, Run, Store
from eval.tasks.materials import Materials


def execute(directory: Path, arm: str, seed: int, report: Report) -> str:
    """Trains and evaluates one run; returns its status. What goes wrong is the run's own: a row, no exception."""
    store = Store.open(directory)
    run = store.run(arm, seed)
    run.begin()
    start = time.perf_counter()
    progress = _Progress()
    status, reason, policy = "done", "", f"runs/{run.folder.name}/policy"
    try:
        _train(store, run, report, progress)
    except (RunError, UserError, torch.OutOfMemoryError, ArithmeticError) as error:
        status, reason, policy = "failed", one_line(error), ""
    seconds = time.perf_counter() - start
    run.finish(
        status=status,
        error=reason,
        fraction=progress.fraction,
        updates=progress.updates,
        seconds=seconds,
        policy=policy,
    )
    return status


class _Progress:
    fraction = 0.0
    updates = 0


def _train(store: Store, run: Run, report: Report, progress: _Progress) -> None:
    experiment = store.asked
    torch.set_num_threads(experiment.threads_per_run)
    algorithm = experiment.arms[run.arm]
    report(0.0, "loading")
    materials = store.materials(experiment.data_seed_of(run.seed))
    policy = Policy.load(
        materials.model,
        lora=experiment.adapter,
        dtype=experiment.dtype,
        device=experiment.device,
        trust_remote_code=experiment.trust_remote_code,
    )
    evaluator = Evaluator(policy, materials, experiment, store.base_samples)
    recorder = _Recorder(store, run, evaluator, costs_before(algorithm, materials), report, progress)
    recorded = algorithm.needs.source == "pairs"
    train(
        algorithm,
        policy,
        prompts=None if recorded else materials.train_prompts,
        pairs=materials.pairs if recorded else None,
        reward=evaluator.reward,
        sampling=experiment.sampling,
        budget=experiment.budget,
        seed=run.seed,
        truncate_prompts=experiment.truncate_prompts,
        reference_cache=store.path / "materials",
        hook=recorder,
    )
    policy.save(run.folder / "policy")


class _Recorder:
    """Writes an event an iteration, and evaluates at the start, at even fractions of the run and at its end."""

    def __init__(
        self,
        store: Store,
        run: Run,
        evaluator: Evaluator,
        extra: dict[str, float],
        report: Report,
        progress: _Progress,
    ) -> None:
        self.run, self.evaluator, self.report, self.progress = run, evaluator, report, progress
        self.base = store.base_metrics
        self.points = store.asked.eval.points
        self.budget = Budget.parse(store.asked.budget)
        self.point = 0
        self.extra = extra
        self.memory = PeakMemory(evaluator.policy.device)

    def __call__(self, state: TrainState, progress: float) -> None:
        self.progress.fraction = state.meter.spent(self.budget)
        self.progress.updates = state.meter.updates
        if state.iteration == 0:
            self.run.append("rows", {"point": 0, **counts(state.meter), "metrics": self.base})
            return
        self.run.append("events", _event(state.history[-1]))
        self.report(min(progress, 1.0), _words(state.history[-1]))
        if progress >= 1 or progress >= (self.point + 1) / self.points:
            self.point = self.points if progress >= 1 else math.floor(progress * self.points + 1e-9)
            evaluated = self.evaluator()
            metrics = evaluated.metrics | (self._costs(state.meter) if progress >= 1 else {})
            self.run.append("rows", {"point": self.point, **counts(state.meter), "metrics": metrics})
            if progress >= 1:
                for record in evaluated.samples:
                    self.run.append("samples", {"point": self.point, **record})

    def _costs(self, meter: Meter) -> dict[str, float]:
        return {
            "cost/train_flops": meter.flops,
            "cost/total_flops": meter.flops + self.extra["flops"],
            "cost/train_seconds": meter.seconds,
            "cost/total_seconds": meter.seconds + self.extra["seconds"],
            "cost/peak_memory": self.memory.mebibytes(),
            "cost/preference_labels": self.extra["labels"],
            "cost/reward_calls": float(meter.reward_calls),
        }


def costs_before(algorithm: Algorithm, materials: Materials) -> dict[str, float]:
    """What an arm needs before training: the pairs for those that learn from them, the reward model (and
    the pairs it was trained on) for those that are scored by one."""
    from_pairs = algorithm.needs.source == "pairs"
    stages = []
    if from_pairs or materials.reward_learned:
        stages.append(materials.pairs_cost)
    if not from_pairs:
        stages.append(materials.reward_cost)
    return {
        "flops": sum(stage.flops for stage in stages),
        "seconds": sum(stage.seconds for stage in stages),
        "labels": float(sum(stage.labels for stage in stages)),
    }


def counts(meter: Meter) -> dict[str, float]:
    """The axes every result can be drawn against; tokens are those generated plus those trained on."""
    spent = {**meter.as_dict(), "tokens": meter.generated_tokens + meter.trained_tokens}
    return {name: spent[name] for name in COUNTS}


def _event(row: dict[str, float]) -> dict[str, float]:
    named = {**row, "iteration": row["iterations"], "tokens": row["generated_tokens"] + row["trained_tokens"]}
    return {name: value for name, value in named.items() if name != "iterations"}


def _words(row: dict[str, float]) -> str:
    for name, label in (("reward/train", "reward"), ("accuracy", "accuracy")):
        if name in row:
            return f"{label} {row[name]:.2f}"
    return ""
