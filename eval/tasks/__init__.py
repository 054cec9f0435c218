"""Tasks: where prompts, pairs, rewards and the judge come from; one module a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eval.experiment import Experiment

if TYPE_CHECKING:
    from eval.tasks.materials import Materials
    from eval.workshop import Workshop

DESCRIPTIONS = {
    "reviews": "film reviews in a small grammar: model, pairs, reward model and gold judge included; nothing to download",
    "custom": "your model, prompts or pairs, reward and judge",
}


def materials_of(experiment: Experiment, workshop: Workshop, data_seed: int) -> Materials:
    """What the arms share, built or taken from the cache. Raises UserError for what the user can mend."""
    if experiment.task == "reviews":
        from eval.tasks.reviews import task

        return task.materials(experiment, workshop, data_seed)
    from eval.tasks.custom import task as custom

    return custom.materials(experiment, workshop, data_seed)


def preset(task: str) -> Mapping[str, Any]:
    """The task's own settings, under what the user says."""
    if task == "reviews":
        from eval.tasks.reviews.preset import PRESET

        return PRESET
    return {}
