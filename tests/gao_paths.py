"""Paths of a judge's reward that follow Gao et al.'s laws to the letter."""

from __future__ import annotations

import numpy as np

KL = np.array([0.3, 1.0, 2.5, 6.0, 12.0])


def path(form: str, a: float, b: float, kl_N: np.ndarray = KL) -> np.ndarray:
    d = np.sqrt(kl_N)
    return d * (a - b * (np.log(d) if form == "rl" else d))
