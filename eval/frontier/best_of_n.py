"""Best-of-N: draw N responses of the reference, keep the one that scores highest. A frontier that needs no training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NS = (2, 4, 8, 16, 32, 64)


def best_of_n(chosen_by_PM: np.ndarray, valued_by_PM: np.ndarray, ns: Sequence[int] = NS) -> np.ndarray:
    """Expected value of the best of N by one reward, valued by another: both [P, M], the reference's → value_NP.

    Exact over all C(M, N) subsets, so unbiased: of the responses in ascending order, the j-th of M is the best
    of C(j−1, N−1) subsets. Among equals each is as likely to be kept.
    """
    M = chosen_by_PM.shape[-1]
    if max(ns) > M or min(ns) < 1:
        raise ValueError(f"best of N needs N from 1 to the {M} responses of each prompt; got {tuple(ns)}")
    weight_NM = np.stack([_best_weights(M, n) for n in ns])
    value_PN = [
        weight_NM @ _ascending(chosen, valued)
        for chosen, valued in zip(chosen_by_PM, valued_by_PM, strict=True)
    ]
    return np.stack(value_PN, axis=1)


def best_of_n_kl(ns: Sequence[int] = NS) -> np.ndarray:
    """log N − (N−1)/N nats: never below best-of-N's KL to the reference (Beirami et al. 2024). ns → [N]."""
    n = np.asarray(ns, dtype=float)
    return np.log(n) - (n - 1) / n


def _best_weights(M: int, n: int) -> np.ndarray:
    """P(the j-th of M is the best of n) = C(j−1, n−1)/C(M, n), j = 1…M; [M]. In logs: C(13000, 64) is no float."""
    from scipy.special import gammaln

    j = np.arange(n, M + 1, dtype=float)
    log_weight = (
        gammaln(j) - gammaln(j - n + 1) - gammaln(n) + gammaln(n + 1) + gammaln(M - n + 1) - gammaln(M + 1)
    )
    return np.concatenate([np.zeros(n - 1), np.exp(log_weight)])


def _ascending(chosen_M: np.ndarray, valued_M: np.ndarray) -> np.ndarray:
    """The values in the order of the choosing reward; equals share their mean."""
    _, group_M = np.unique(chosen_M, return_inverse=True)
    mean = np.bincount(group_M, valued_M) / np.bincount(group_M)
    return np.asarray(mean[np.sort(group_M)])
