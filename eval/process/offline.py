"""--offline: nothing is asked of a hub, and what would have to be fetched from one is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from algos import UserError
from eval.experiment import Experiment

_SOURCES = ("model", "prompts", "pairs", "test_prompts", "reward", "judge")
_SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def go_offline() -> None:
    """From now on the libraries ask no hub for anything, in this process and those it starts."""
    os.environ.update(dict.fromkeys(_SWITCHES, "1"), WANDB_MODE="offline")
    for name in ("huggingface_hub.constants", "datasets.config"):
        if name in sys.modules:  # it has read the environment already
            sys.modules[name].HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def refuse_hub_ids(experiment: Experiment) -> None:
    """Raises UserError naming a source that is not on this machine."""
    for name in _SOURCES:
        source: str | None = getattr(experiment, name)
        if source and not any(Path(part).exists() for part in (source, source.rpartition(":")[0]) if part):
            raise UserError(
                f"--offline: {name} {source!a} is not on this machine, and no hub is asked for it. "
                "Give a file or directory, or leave --offline out."
            )
