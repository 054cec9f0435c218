"""Whether a comparison fits the machine, told before it is begun, and what would."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from algos import Algorithm, LoRA, UserError
from algos.engine.algorithm import Needs
from algos.engine.errors import one_line
from algos.engine.inputs import max_positions
from algos.engine.models.loading import compute_dtype, pick_device, saved_adapter
from eval.experiment import Experiment
from eval.memory.footprint import Load, Need, need_of, reward_model_need, standing_of
from eval.stages.fitting import rows_at_once
from eval.tasks import model_config

GIB = 2**30
CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where a container finds the bound of its memory (cgroup v2)."""
REMEDIES: tuple[dict[str, Any], ...] = (
    {"micro_batch": 1},
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": True, "micro_batch": 1},
    {"lora": True},
    {"lora": True, "micro_batch": 1},
    {"lora": True, "gradient_checkpointing": True, "micro_batch": 1},
)
"""Settings that make a run smaller, the least intrusive first."""


def needs(
    experiment: Experiment, prompt_tokens: int, scorer_parameters: int = 0, workers: int = 1
) -> dict[str, Need]:
    """What each arm's run needs, one of so many at once, and, where one is to be trained, the reward model.

    `prompt_tokens` are those of the longest prompt, `scorer_parameters` those of the reward model and the
    judge together, which every run holds. Raises UserError where there is no model to read.
    """
    load = replace(load_of(experiment, prompt_tokens, scorer_parameters), at_once=workers)
    # Arms that differ in what memory does not depend on, as those of a sweep do, need the same.
    kinds = {_kind(arm): arm for arm in experiment.arms.values()}
    each = {kind: need_of(arm, load) for kind, arm in kinds.items()}
    found = {name: each[_kind(arm)] for name, arm in experiment.arms.items()}
    if experiment.learns_reward:
        found["reward model"] = _of_reward_model(experiment, load)
    return found


def _of_reward_model(experiment: Experiment, load: Load) -> Need:
    return reward_model_need(load, rows_at_once(experiment.reward_model.batch_size, load.micro_batch))


def _kind(arm: Algorithm) -> Needs:
    """What memory depends on: not on how often an arm goes over its data, nor on its learning rates."""
    return replace(arm.needs, passes=1, pair_epochs=1, value_learning_rate=None)


def require_room(
    experiment: Experiment, prompt_tokens: int, scorer_parameters: int = 0, workers: int = 1
) -> dict[str, Need]:
    """What `needs` says. Raises UserError where that is more than is free, naming what would fit."""
    room = available(experiment.device)
    found = needs(experiment, prompt_tokens, scorer_parameters, workers)
    if _together(experiment, found, workers) <= room:
        return found
    name = max(found, key=lambda name: found[name].peak)
    at_once = f", {workers} runs at once," if workers > 1 else ""
    size = _together(experiment, found, workers)
    what = f"{name}{at_once} needs about {_gib(size)} of memory, and {_gib(room)} are free."
    if workers > 1 and _together(experiment, found, 1) <= room:
        raise UserError(f"{what} It would fit with --workers 1.")
    for smaller, flags in _smaller(experiment):
        if not _largest_fits(smaller, name, load_of(smaller, prompt_tokens, scorer_parameters), room):
            continue
        size = _together(smaller, needs(smaller, prompt_tokens, scorer_parameters), 1)
        if size <= room:
            one = " --workers 1" if workers > 1 else ""
            raise UserError(f"{what} It would fit with {flags}{one} (about {_gib(size)}).")
    if name in experiment.arms:
        lora = "" if _saved_adapter(experiment) else "--lora nor "
        remedy = "Take a smaller model, or lower --max-new-tokens, --group-size or --reward-model.batch-size."
    else:  # all of it is trained
        lora, remedy = "", "Name a reward and a judge with --reward and --judge, or take a smaller model."
    raise UserError(
        f"{what} Neither {lora}--gradient-checkpointing nor --micro-batch 1 makes it fit. {remedy}"
    )


def _largest_fits(experiment: Experiment, name: str, load: Load, room: int) -> bool:
    """Whether what is largest does by itself; of an arm first what always stands in memory: the rest takes time to find."""
    if name in experiment.arms:
        arm = experiment.arms[name]
        if sum(standing_of(arm, load).values()) > room:
            return False
        need = need_of(arm, load)
    else:
        need = _of_reward_model(experiment, load)
    return _together(experiment, {name: need}, 1) <= room


def at_once(experiment: Experiment, workers: int) -> int:
    """Runs that are in memory together, at most: there may be fewer of them than workers."""
    tries = experiment.tune * experiment.tune_seeds if experiment.untuned else 0
    return min(workers, len(experiment.algos) * max(experiment.seeds, tries))


@contextmanager
def where_known(say: Callable[[str], None]) -> Iterator[None]:
    """The block in which memory is estimated. A model's own code may do what tensors without data cannot: then that is
    said, and nothing is refused."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        say(f"how much memory a run needs cannot be told: {one_line(error)}")


def _smaller(experiment: Experiment) -> Iterator[tuple[Experiment, str]]:
    """The experiment with each remedy that it does not have yet, and the flags to write."""
    for remedy in REMEDIES:
        if "lora" in remedy and _saved_adapter(experiment):
            continue  # it is trained on as it is
        if any(getattr(experiment, setting) != value for setting, value in remedy.items()):
            yield replace(experiment, **remedy), _flags(remedy)


def rows(found: Mapping[str, Need], beside: int) -> list[list[str]]:
    """For a table: name, weights and their reference, optimizer, the largest phase, and the peak with the bytes that
    stand `beside` it in the run's process."""
    table = []
    for name, need in found.items():
        phase = max(need.phases, key=lambda phase: need.phases[phase])
        optimizer = need.standing.get("optimizer", 0)
        weights = sum(need.standing.values()) - optimizer
        sizes = (weights, optimizer, need.phases[phase], need.peak + beside)
        table.append(
            [
                name,
                *(f"{size / GIB:.2f}" for size in sizes[:2]),
                f"{sizes[2] / GIB:.2f} ({phase})",
                f"{sizes[3] / GIB:.2f}",
            ]
        )
    return table


COLUMNS = ("run", "weights [GiB]", "optimizer [GiB]", "largest phase [GiB]", "peak [GiB]")


def load_of(experiment: Experiment, prompt_tokens: int, scorer_parameters: int = 0) -> Load:
    """An experiment's settings as memory sees them. A prompt longer than fits the model is cut to what does."""
    device, config = pick_device(experiment.device), model_config(experiment)
    saved = _saved_adapter(experiment)
    limit = max_positions(config) or math.inf
    return Load(
        config=config,
        prompt_tokens=max(1, int(min(prompt_tokens, limit - experiment.sampling.max_new_tokens))),
        sampling=experiment.sampling,
        dtype=compute_dtype(experiment.dtype, device),
        lora=experiment.adapter or saved,
        copied=saved is not None,
        gradient_checkpointing=experiment.gradient_checkpointing,
        micro_batch=experiment.micro_batch,
        evaluated=experiment.eval.prompts * experiment.eval.responses,
        evaluated_at_once=experiment.eval.batch_size,
        scorer_parameters=scorer_parameters,
        on_gpu=device.type == "cuda",
    )


def _saved_adapter(experiment: Experiment) -> LoRA | None:
    return saved_adapter(experiment.model) if experiment.model else None


def available(device: str, group: Path = CONTROL_GROUP) -> int:
    """Bytes that are free: on the GPU, or of the machine's memory and of what this process may have of it, which the
    files of its control `group` tell. Files that the system keeps in memory as long as nobody needs it count as free."""
    where = pick_device(device)
    if where.type == "cuda":
        return torch.cuda.mem_get_info(where)[0]
    free = psutil.virtual_memory().available
    try:  # a container's bound, where there is one
        bound, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):
        return free
    return min(free, bound - used + _kept_files(group))


def _kept_files(group: Path) -> int:
    """Bytes of `memory.current` that reclaim takes before the group runs out: both lists of files' pages, which the
    kernel counts in the machine's MemAvailable too. Not `file`, which has tmpfs in it; 0 where it is not told."""
    try:
        told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(told["inactive_file"]) + int(told["active_file"])
    except (OSError, ValueError, KeyError):
        return 0


def _together(experiment: Experiment, found: Mapping[str, Need], workers: int) -> int:
    """Bytes of so many of the largest runs, each a process of its own."""
    return workers * (max(need.peak for need in found.values()) + libraries(experiment.device))


def libraries(device: str) -> int:
    """Bytes that a run's process holds before it has a model: on a CPU its libraries, of a GPU's memory nothing."""
    return 0 if pick_device(device).type == "cuda" else _resident()


def _resident() -> int:
    """What this process holds, with no more than its libraries: as much as one of a run will. Measured with torch 2.13 for
    CPUs: 405 to 407 MiB here, once needs are estimated; 383 in a worker that has nothing to do yet, 407 to 416 before its
    first step with models of about 1 MiB."""
    return int(psutil.Process().memory_info().rss)


def _flags(remedy: Mapping[str, Any]) -> str:
    return " ".join(
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        for name, value in remedy.items()
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
