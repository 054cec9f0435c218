"""Responses of several policies to the same prompts, each scored under all of them: what the frontier is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from algos.engine.storage import atomic_directory, existing, read_json, write_json


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
    """`proxy` and `judge`, each [P, M]."""

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
        with atomic_directory(folder) as temporary:
            arrays = {"logps": self.logps_KPM, **self.rewards}
            save_file(
                {name: np.ascontiguousarray(array) for name, array in arrays.items()},
                temporary / "pool.safetensors",
            )
            write_json(temporary / "pool.json", self.description)

    @classmethod
    def load(cls, folder: Path) -> Pool | None:
        """What `save` wrote, or None where there is nothing."""
        found = existing(folder)
        if found is None:
            return None
        about, arrays = read_json(found / "pool.json"), load_file(found / "pool.safetensors")
        return cls(
            tuple(about["samplers"]),
            tuple(about["seeds"]),
            tuple(about["counts"]),
            arrays.pop("logps"),
            arrays,
        )

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
