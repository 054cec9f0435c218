"""What may be said of a pair of arms, and when two comparisons say the same."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from eval.report.numbers.pairs import ROUNDING, Pair
from eval.report.numbers.standings import Standing
from eval.stats import mean_interval

Kind = Literal["told apart", "equal", "level", "no spread", "same difference", "one seed"]


def kind_of(standing: Standing, pair: Pair) -> Kind:
    """What may be said of a pair: told apart, of equal means over all their seeds, not told apart ("level"), or why
    there is no interval to judge the difference by."""
    if pair.told_apart:
        return "told apart"
    count = pair.difference.n
    whole = all(len(standing.values.get(arm, pair.of_first)) == count for arm in (pair.first, pair.second))
    if whole and count > 1 and _same_mean(pair):
        return "equal"
    if pair.difference.has_interval:
        return "level"
    if count == 1:
        return "one seed"
    return "same difference" if mean_interval(list(pair.of_first.values())).has_interval else "no spread"


def outcome(standing: Standing) -> tuple[object, ...]:
    """What two comparisons must share to say the same: the pairs, which of them are told apart, equal or without an
    interval, and then the best arm."""
    pairs = {frozenset((pair.first, pair.second)) for pair in standing.firm}
    kinds = {
        (pair.first, pair.second, kind)
        for pair in standing.firm
        if (kind := kind_of(standing, pair)) != "level"
    }
    return pairs, kinds, standing.leader if kinds else ""


def _same_mean(pair: Pair) -> bool:
    first, second = (float(np.mean(list(own.values()))) for own in (pair.of_first, pair.of_second))
    return math.isclose(first, second, rel_tol=ROUNDING, abs_tol=ROUNDING)
