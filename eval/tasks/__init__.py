"""Tasks: where prompts, pairs, rewards and the judge come from; one module a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eval.experiment import Experiment

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from eval.plan import Sizes
    from eval.stages.cache import ArtefactCache
    from eval.tasks.materials import Materials

DESCRIPTIONS = {
    "reviews": "film reviews in a small grammar: model, pairs, reward model and gold judge included; nothing to download",
    "custom": "your model, prompts or pairs, reward and judge",
}


def materials_of(experiment: Experiment, cache: ArtefactCache, data_seed: int) -> Materials:
    """What the arms share, built or taken from the cache. Raises UserError for what the user can mend."""
    if experiment.task == "reviews":
        from eval.tasks.reviews import task

        return task.materials(experiment, cache, data_seed)
    from eval.tasks.custom import task as custom

    return custom.materials(experiment, cache, data_seed)


def model_config(experiment: Experiment) -> PretrainedConfig:
    """The configuration of the model that is trained, without its weights, from which memory is estimated."""
    if experiment.task == "reviews":
        from eval.tasks.reviews.world import Reviews

        return Reviews().model_config()
    from algos.engine.models.loading import read_config

    return read_config(experiment.model or "", experiment.trust_remote_code)


def sizes_of(experiment: Experiment, quick: bool = False) -> Sizes:
    """What nominal cost and memory depend on, from the task's description or the model's configuration;
    `quick` from the first of the data alone."""
    if experiment.task == "reviews":
        from eval.tasks.reviews.task import sizes

        return sizes(experiment)
    from eval.tasks.custom.sizes import sizes as custom_sizes

    return custom_sizes(experiment, quick)


def preset(task: str, recorded_pairs: bool = False) -> Mapping[str, Any]:
    """The task's own settings, under what the user says."""
    if task == "reviews":
        from eval.tasks.reviews.preset import PRESET

        return PRESET
    from eval.tasks.custom.preset import preset as custom_preset

    return custom_preset(recorded_pairs)
