"""Comparisons made of stored runs, given to the code that decides what the verdict may claim."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.calibration.stored import METRICS
from eval import stats
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.standings import Standing, own_end
from eval.report.sections.forecast import MOST_SEEDS

Rule = Callable[[Evaluations], Standing]
BLOCK = 10
"""Seeds of one real repetition: five for each of two names, or ten pairs."""


def comparison(names: Mapping[str, np.ndarray]) -> Evaluations:
    """name → paths_NKM as a finished comparison, as the report reads it; a name's i-th run is its seed i."""
    import pandas as pd

    counts = {name: paths_NKM.shape[:2] for name, paths_NKM in names.items()}
    rows_XM = np.concatenate([paths_NKM.reshape(-1, len(METRICS)) for paths_NKM in names.values()])
    columns = {
        "arm": np.repeat(list(counts), [N * K for N, K in counts.values()]),
        "seed": np.concatenate([np.repeat(np.arange(N), K) for N, K in counts.values()]),
        "point": np.concatenate([np.tile(np.arange(K), N) for N, K in counts.values()]),
        "finished": True,
        **dict(zip(METRICS, rows_XM.T, strict=True)),
    }
    paths = pd.DataFrame(columns)
    (points,) = {K for _, K in counts.values()}
    ends = paths.iloc[points - 1 :: points]
    return Evaluations({name: name for name in names}, paths, ends, {}, ends)


def claimed(rules: Sequence[Rule], comparisons: Iterable[Sequence[np.ndarray]]) -> np.ndarray:
    """Whether each rule tells any two arms of each comparison apart → claimed_RQ, one column a rule: 1, 0, or nan where
    the rule reads no two arms firmly enough to claim anything.

    A comparison is its arms' paths_NKM, in order; arms get names of their own.
    """
    return np.array([_claims(rules, arms) for arms in comparisons])


def _claims(rules: Sequence[Rule], arms: Sequence[np.ndarray]) -> list[float]:
    view = comparison({f"arm-{i}": paths_NKM for i, paths_NKM in enumerate(arms)})
    firm = [rule(view).firm for rule in rules]
    return [float(any(pair.told_apart for pair in pairs)) if pairs else math.nan for pairs in firm]


def repetitions(seeds: int, n: int, names: int = 1) -> np.ndarray:
    """Real repetitions, BLOCK seeds each, none used twice → seeds_RAN: the first n of each name's share."""
    whole = seeds // BLOCK * BLOCK
    return np.arange(whole).reshape(-1, names, BLOCK // names)[..., :n]


def resamplings(seeds: int, n: int, names: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Disjoint sets of n of the stored seeds for every name, drawn anew each time → seeds_RAN."""
    orders_RS = rng.permuted(np.tile(np.arange(seeds, dtype=np.int16), (draws, 1)), axis=1)
    return orders_RS[:, : names * n].reshape(draws, names, n)


def false_claims(rules: Sequence[Rule], paths_SKM: np.ndarray, seeds_RAN: np.ndarray) -> np.ndarray:
    """A/A: one arm's runs under several names → claimed_RQ; every claim is false."""
    return claimed(rules, (paths_SKM[seeds_AN] for seeds_AN in seeds_RAN))


def true_claims(a_SKM: np.ndarray, b_SKM: np.ndarray, seeds_RN: np.ndarray) -> np.ndarray:
    """A/B: two arms on the same seeds, at their own ends → claimed_R."""
    found_RQ = claimed([own_end], ((a_SKM[seeds_N], b_SKM[seeds_N]) for seeds_N in seeds_RN))
    found_R: np.ndarray = found_RQ[:, 0] == 1
    return found_R


@dataclass(frozen=True)
class Forecast:
    """What became of one pilot of two arms.

    at_once: the pilot itself told them apart. wanted: the number of seeds it asked for, None where it was told apart or
    asked for more than MOST_SEEDS. found: with so many seeds they were told apart.
    """

    at_once: bool
    wanted: int | None = None
    found: bool = False


def forecasts(pilot: int, a_SKM: np.ndarray, b_SKM: np.ndarray, seeds_RAN: np.ndarray) -> list[Forecast]:
    """Pilots of the first few seeds, then as many as each asks for, itself counted: what the verdict advises.

    seeds_RAN: the seeds of both arms, N = MOST_SEEDS.
    """
    return [_forecast(pilot, a_SKM[of_a_N], b_SKM[of_b_N]) for of_a_N, of_b_N in seeds_RAN]


def _forecast(pilot: int, a_NKM: np.ndarray, b_NKM: np.ndarray) -> Forecast:
    (pair,) = own_end(comparison({"a": a_NKM[:pilot], "b": b_NKM[:pilot]})).pairs
    if pair.told_apart:
        return Forecast(at_once=True)
    wanted = stats.seeds_needed(pair.differences, most=MOST_SEEDS)
    if wanted is None:
        return Forecast(at_once=False)
    (found,) = _claims([own_end], (a_NKM[:wanted], b_NKM[:wanted]))
    return Forecast(False, wanted, found == 1)
