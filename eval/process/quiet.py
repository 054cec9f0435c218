"""Libraries that talk, phone home or draw bars of their own are told not to, before they are imported."""

from __future__ import annotations

import logging
import os
import warnings

from eval.escape import for_terminal


class _ForTerminal(logging.Formatter):
    """Our own warnings may quote a file's name or what a function said: nothing in them drives the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record))


def quiet() -> None:
    """No telemetry, no foreign progress bars, no advice from libraries on the user's terminal."""
    if logging.lastResort is not None:  # what shows warnings where nobody has configured logging
        logging.lastResort.setFormatter(_ForTerminal())
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Where a hub model has no safetensors, transformers would ask a service to convert it, and take the result.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    warnings.filterwarnings("ignore")
    # What training says of its rows is in their account (docs/data.md), once for all runs.
    logging.getLogger("algos.engine.batches.sources").setLevel(logging.ERROR)
    for name in ("transformers", "trl", "datasets", "huggingface_hub", "accelerate", "peft", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
