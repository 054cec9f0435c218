"""Where models, data, rewards and judges lie: the same from every working directory, and as people read it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.experiment import Experiment

PLACES = ("model", "prompts", "pairs", "test_prompts", "reward", "judge")
"""Settings that name a file, a directory or something on a hub, some with a function or a split after a colon."""


def anchored(experiment: Experiment) -> Experiment:
    """The experiment with absolute paths of what is on this machine. What is not is the hub's, or missing, and stays as it
    was written, but for a ~."""
    named: dict[str, Any] = {
        name: _anchored(source) for name in PLACES if (source := getattr(experiment, name))
    }
    return replace(experiment, **named)


def same_place(one: str | None, other: str | None) -> bool:
    """Whether both name the same, seen from the working directory."""
    return one == other or bool(one and other and _resolved(one) == _resolved(other))


def readable(source: str) -> str:
    """A path below the working directory as one that begins there; anything else as it is."""
    return source.removeprefix(os.path.join(os.getcwd(), ""))


def _parts(source: str) -> tuple[str, str]:
    """A path, and what follows it: a function of the file, a split of the data set."""
    source = os.path.expanduser(source)
    path, colon, rest = source.rpartition(":")
    inside = not os.path.exists(source) and colon and (path.endswith(".py") or os.path.exists(path))
    return (path, colon + rest) if inside else (source, "")


def _anchored(source: str) -> str:
    path, rest = _parts(source)
    return str(Path(path).absolute()) + rest if os.path.exists(path) else path + rest


def _resolved(source: str) -> str:
    path, rest = _parts(source)
    return os.path.realpath(path) + rest
