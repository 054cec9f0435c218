"""What a run writes down: an event an iteration, its evaluations, its checkpoints, and how it stands."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from algos.engine.algorithm import Algorithm
from algos.engine.budget import Budget, Meter
from algos.engine.state import TrainState
from eval.directory.runs import Run
from eval.directory.tidy import COUNTS
from eval.metrics import Evaluator
from eval.process.jobs import Progress
from eval.process.measure import PeakMemory
from eval.process.stopping import Stopped
from eval.recording.checkpoints import Checkpoints
from eval.recording.divergence import EVALUATION, TRAINING, divergence
from eval.recording.trackers import Trackers
from eval.store import Store
from eval.tasks.materials import Materials


@dataclass
class RunState:
    """How far a run has come, for its status."""

    fraction: float = 0.0
    updates: int = 0
    diverged: str = ""
    """At which iteration and why; empty where it has not."""
    seconds: float = 0.0
    """Of the processes before this one that worked on the run."""
    effective: dict[str, Any] = field(default_factory=dict)
    """The settings it was really made with, where the experiment says `auto` or leaves the choice to the machine."""


class Recorder:
    """The hook of a run's training; `base` are the untouched model's metrics, the run's point 0.

    Point i of n is at the fraction (i/n)²: a policy moves fastest at first, and KL rises about as the square of
    the way it has come, so that the points spread along the axis √KL.
    """

    def __init__(
        self,
        store: Store,
        run: Run,
        evaluator: Evaluator,
        base: dict[str, float],
        extra: dict[str, float],
        progress: Progress,
        run_state: RunState,
        trackers: Trackers,
    ) -> None:
        self.trackers = trackers
        self.run, self.evaluator, self.progress, self.run_state = run, evaluator, progress, run_state
        self.base = base
        self.points = store.experiment.eval.points
        self.budget = Budget.parse(store.experiment.budget)
        self.point = 0
        self.extra = extra
        self.memory = PeakMemory(evaluator.policy.device)
        self.memory_before = 0.0
        self.checkpoints = Checkpoints(run, store.experiment.checkpoint_every)
        self.started = time.perf_counter()
        self.begun = False

    def __call__(self, state: TrainState, progress: float) -> None:
        """Raises Stopped, with all of it saved, where the user asked to stop before the run's end."""
        self.run_state.fraction = state.meter.spent(self.budget)
        self.run_state.updates = state.meter.updates
        if not self.begun:
            self._begin(state)
            return
        row = event(state.history[-1])
        self.run.append("events", row)
        self.trackers.log(row, state.iteration)
        self._watch(state, divergence(state.history[-1], state.history[0], TRAINING))
        due = self.points if progress >= 1 else math.floor(math.sqrt(progress) * self.points + 1e-9)
        if due > self.point:
            self._evaluate(state, due)
        go_on = self.progress(min(progress, 1.0), _words(state.history[-1]))
        if progress < 1 and (not go_on or self.checkpoints.due):
            self._save(state)
        if progress < 1 and not go_on:
            raise Stopped

    def _begin(self, state: TrainState) -> None:
        """The first row; or, where training goes on from a checkpoint, what stood when it was made."""
        self.begun = True
        about = {"arm": self.run.arm, "seed": self.run.seed, **self.run_state.effective}
        self.trackers.start(about, state.iteration)
        if state.iteration == 0:
            self._write_row(state.meter, self.base)
            return
        notes = state.notes
        self.point, self.memory_before = notes["point"], notes["memory"]
        self.run_state.diverged, self.run_state.seconds = notes["diverged"], notes["seconds"]

    def _evaluate(self, state: TrainState, point: int) -> None:
        evaluated = self.evaluator()
        self.trackers.log(evaluated.metrics, state.iteration)
        measured = evaluated.metrics | {"length": evaluated.plain_length}
        self._watch(state, divergence(measured, self.base, EVALUATION))
        self.point = point
        self._write_row(state.meter, evaluated.metrics)
        if point == self.points:
            self.run.append("samples", *({"point": point, **record} for record in evaluated.samples))

    def _watch(self, state: TrainState, reason: str) -> None:
        """Keeps the first sign of divergence."""
        if reason and not self.run_state.diverged:
            self.run_state.diverged = (
                f"iteration {state.iteration} (update {state.meter.updates}): {reason}; "
                f"the last evaluation before it is point {self.point}"
            )

    def _save(self, state: TrainState) -> None:
        state.notes |= {
            "point": self.point,
            "memory": max(self.memory_before, self.memory.mebibytes()),
            "diverged": self.run_state.diverged,
            "seconds": self.run_state.seconds + time.perf_counter() - self.started,
        }
        self.checkpoints.save(state)

    def _write_row(self, meter: Meter, metrics: dict[str, float]) -> None:
        row = {"point": self.point, **counts(meter), "metrics": metrics | self._costs(meter)}
        self.run.append("rows", row)

    def _costs(self, meter: Meter) -> dict[str, float]:
        """So far: at point 0 total cost, labels and reward calls are those of the preparation."""
        return {
            "cost/train_flops": meter.flops,
            "cost/total_flops": meter.flops + self.extra["flops"],
            "cost/train_seconds": meter.seconds,
            "cost/total_seconds": meter.seconds + self.extra["seconds"],
            "cost/peak_memory": max(self.memory_before, self.memory.mebibytes()),
            "cost/preference_labels": self.extra["labels"],
            "cost/reward_calls": meter.reward_calls + self.extra["reward_calls"],
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
        "reward_calls": float(sum(stage.reward_calls for stage in stages)),
    }


def counts(meter: Meter) -> dict[str, float]:
    """The axes every result can be drawn against; tokens are those generated plus those trained on."""
    spent = {**meter.as_dict(), "tokens": meter.generated_tokens + meter.trained_tokens}
    return {name: spent[name] for name in COUNTS}


def event(row: dict[str, float]) -> dict[str, float]:
    named = {**row, "iteration": row["iterations"], "tokens": row["generated_tokens"] + row["trained_tokens"]}
    return {name: value for name, value in named.items() if name != "iterations"}


def _words(row: dict[str, float]) -> str:
    for name, label in (("reward/train", "reward"), ("accuracy", "accuracy")):
        if name in row:
            return f"{label} {row[name]:.2f}"
    return ""
