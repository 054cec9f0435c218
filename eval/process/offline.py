"""--offline: no hub is asked for anything; what its caches do not hold, and would have to be fetched, is refused."""

from __future__ import annotations

import os
import sys

from algos import UserError
from eval.experiment import Experiment

_MODELS, _DATA = ("model", "reward", "judge"), ("prompts", "pairs", "test_prompts")
_SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def go_offline() -> None:
    """From now on the libraries ask no hub for anything, in this process and those it starts."""
    os.environ.update(dict.fromkeys(_SWITCHES, "1"), WANDB_MODE="offline")
    for name in ("huggingface_hub.constants", "datasets.config"):
        if name in sys.modules:  # it has read the environment already
            sys.modules[name].HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def refuse_hub_ids(experiment: Experiment) -> None:
    """Raises UserError naming a source that is not on this machine, in the hub's caches neither. Asks no hub, and
    imports what reads those caches only where there is a source to look for in them."""
    for name in (*_MODELS, *_DATA):
        source: str | None = getattr(experiment, name)
        if not source or any(os.path.exists(part) for part in (source, source.rpartition(":")[0])):
            continue
        if not (_is_cached_dataset if name in _DATA else _is_cached_model)(source):
            raise UserError(
                f"--offline: {name} {source!a} is not on this machine, and no hub is asked for it. "
                "Give a file or directory, or leave --offline out."
            )


def _is_cached_model(source: str) -> bool:
    from algos.engine.models.hub import is_cached

    return is_cached(source)


def _is_cached_dataset(source: str) -> bool:
    """A split, after a colon, is not looked for."""
    from eval.data.hub import is_cached
    from eval.data.read import hub_name

    return bool(hub_name(source)) and is_cached(source.partition(":")[0])
