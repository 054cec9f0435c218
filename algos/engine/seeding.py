"""Randomness as a pure function of names: no hidden stream, so nothing depends on order, batch or worker."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch


def derive(seed: int, *labels: object) -> int:
    """A 63-bit seed for one purpose, e.g. `derive(seed, "order", epoch)`."""
    text = "\x1f".join([str(seed), *map(str, labels)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def digest(values: Iterable[object]) -> str:
    """A 128-bit hash of plain values, in order, as hex."""
    hashed = hashlib.blake2b(digest_size=16)
    for value in values:
        hashed.update(repr(value).encode())
    return hashed.hexdigest()


def generator(seed: int, *labels: object) -> torch.Generator:
    """A CPU generator seeded for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *labels))


def uniforms(seed: int, prompts: Sequence[Sequence[int]], group_size: int, length: int) -> np.ndarray:
    """U_PGT in (0, 1), float64: one number for each (seed, prompt, g, t), whatever batch it is drawn in.

    The n-th occurrence of the same prompt in one call gets numbers of its own. Counter-based: SplitMix64
    (Steele et al. 2014) of a key a response plus t, as in Random123-style generators.
    """
    seen: Counter[tuple[int, ...]] = Counter()
    keys = np.empty((len(prompts), group_size), dtype=np.uint64)
    for p, prompt in enumerate(prompts):
        occurrence = seen[tuple(prompt)]
        seen[tuple(prompt)] += 1
        for g in range(group_size):
            keys[p, g] = derive(seed, "uniform", ",".join(map(str, prompt)), occurrence, g)
    steps = np.arange(1, length + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = keys[:, :, None] + steps
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    # 52 bits and half a step are exact in a double and keep 0 and 1 themselves out.
    return ((z >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
