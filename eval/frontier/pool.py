"""Responses of several policies to the same prompts, each scored under all of them: what the frontier is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from algos.engine.errors import one_line
from algos.engine.storage import DamagedFile, atomic_directory, saving, write_json
from eval.directory.reading import read_checked, whole
from eval.directory.schemas import PoolAbout

_FLOAT32 = (-3.5e38, 3.5e38)  # what a reward may be


@dataclass(frozen=True)
class Pool:
    """K samplers (the reference first), P prompts, M = Σ counts responses a prompt, ordered by sampler."""

    samplers: tuple[str, ...]
    """`base`, then the arms' names."""
    seeds: tuple[int, ...]
    """Which run of each arm was sampled; 0 for the base."""
    counts: tuple[int, ...]
    """Responses a prompt of each sampler."""
    logps_KPM: np.ndarray
    """Log-probability of each response under each sampler, in nats, at temperature 1."""
    rewards: Mapping[str, np.ndarray]
    """`proxy` and `judge`, each [P, M]; NaN in `proxy` is a response that the reward left unscored."""

    def __post_init__(self) -> None:
        K, _, M = self.logps_KPM.shape
        if (len(self.samplers), len(self.counts), sum(self.counts)) != (K, K, M):
            raise ValueError(
                f"{K} samplers and {M} responses do not fit counts {self.counts} of {self.samplers}"
            )

    @property
    def description(self) -> dict[str, Any]:
        """What the pool was drawn from: equal descriptions in one comparison mean equal pools."""
        return describe(self.samplers, self.seeds, self.counts, self.logps_KPM.shape[1])

    def of(self, sampler: str) -> slice:
        """The places of one sampler's own responses."""
        k = self.samplers.index(sampler)
        start = sum(self.counts[:k])
        return slice(start, start + self.counts[k])

    def save(self, folder: Path) -> None:
        """Raises OSError where the disk does not take it."""
        arrays = {"logps": self.logps_KPM, **self.rewards}
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        with atomic_directory(folder) as temporary:
            file = temporary / "pool.safetensors"
            with saving(file):
                save_file(contiguous, file)
            write_json(temporary / "pool.json", self.description)

    @classmethod
    def load(cls, folder: Path) -> Pool | None:
        """What `save` wrote, or None where there is nothing. Raises DamagedFile."""
        found = whole(folder)
        if found is None:
            return None
        about = read_checked(found / "pool.json", PoolAbout)
        K, P, M = len(about["samplers"]), about["prompts"], sum(about["counts"])
        shapes = {"logps": (K, P, M), "proxy": (P, M), "judge": (P, M)}
        arrays = _arrays(found / "pool.safetensors", shapes)
        logps_KPM = arrays.pop("logps")
        return cls(tuple(about["samplers"]), tuple(about["seeds"]), tuple(about["counts"]), logps_KPM, arrays)

    @classmethod
    def joined(cls, parts: list[Pool]) -> Pool:
        """The prompts of all parts, in their order."""
        first = parts[0]
        logps_KPM = np.concatenate([part.logps_KPM for part in parts], axis=1)
        rewards = {name: np.concatenate([part.rewards[name] for part in parts]) for name in first.rewards}
        return cls(first.samplers, first.seeds, first.counts, logps_KPM, rewards)


def describe(
    samplers: tuple[str, ...], seeds: tuple[int, ...], counts: tuple[int, ...], prompts: int
) -> dict[str, Any]:
    return {"samplers": list(samplers), "seeds": list(seeds), "counts": list(counts), "prompts": prompts}


def _arrays(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Numbers of these shapes, by name. Raises DamagedFile for anything else, and for what is no log-probability or reward."""
    try:
        arrays: dict[str, np.ndarray] = load_file(file)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DamagedFile(f"{file} cannot be read: {one_line(error)}.") from error
    found = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
    expected = {name: (shape, "float64") for name, shape in shapes.items()}
    if found != expected:
        raise DamagedFile(
            f"{file} is not of the shape that this program writes: it holds {found}, not {expected}."
        )
    ranges = {"logps": (-1e9, 1e-3), "proxy": _FLOAT32, "judge": _FLOAT32}
    for name, (low, high) in ranges.items():
        unscored = np.isnan(arrays[name]) & (name == "proxy")
        if not (unscored | (low <= arrays[name]) & (arrays[name] <= high)).all():
            raise DamagedFile(f"{file} is not what this program writes: {name} holds what is none.")
    return arrays
