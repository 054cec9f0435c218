"""Who stands where: every two arms at their own ends, at equal total cost, and at matched KL. Numbers, no words.

The judge's reward throughout. Failed runs are left out, as they are of every mean.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from eval import stats
from eval.report.inputs import JUDGE, KL
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.pairs import Pair, Values
from eval.report.numbers.readings import Path, Reading, at_cost, at_kl, before_first, budget_used, paths_of

TOTAL_COST = "cost/total_flops"
MIN_KL = (
    0.05  # nats; below, the best policy gains at most about √(2·KL) = 0.3 standard deviations of the reward
)


@dataclass(frozen=True)
class Standing:
    """One comparison of all arms: every two of them, and where they share one, each arm's own values.

    values: arm → seed → judge reward; empty at matched KL, where they belong to a pair. cost: the total cost at which
    they were read [FLOPs]; readings: where in its training every arm was there. unprepared: arms whose preparation alone
    costs more. unmoved: arms with a run that ended within MIN_KL of the base.
    """

    kind: Literal["end", "cost", "kl"]
    pairs: tuple[Pair, ...] = ()
    values: Mapping[str, Values] = field(default_factory=dict)
    cost: float = math.nan
    readings: Mapping[str, Reading] = field(default_factory=dict)
    unprepared: tuple[str, ...] = ()
    unmoved: tuple[str, ...] = ()

    @property
    def known(self) -> tuple[Pair, ...]:
        """The pairs that have at least one common seed."""
        return tuple(pair for pair in self.pairs if pair.difference.n)

    @property
    def firm(self) -> tuple[Pair, ...]:
        """The known pairs of which something can be claimed."""
        return tuple(pair for pair in self.known if not pair.rough)

    @property
    def family(self) -> int:
        """The number of pairs that Holm's correction is for: those that have a p-value."""
        return sum(not math.isnan(pair.p_holm) for pair in self.pairs)

    @property
    def rough(self) -> list[str]:
        """Arms whose reading is rough in some pair."""
        return list(dict.fromkeys(arm for pair in self.known for arm in pair.rough))

    @property
    def ranking(self) -> list[str]:
        """Best arm first, rough readings left out: by mean; at matched KL by the number of arms that it is above,
        then by how far."""
        if self.kind != "kl":
            rough = self.rough
            means = {a: float(np.mean(list(own.values()))) for a, own in self.values.items() if own}
            return sorted((arm for arm in means if arm not in rough), key=lambda arm: -means[arm])
        score: dict[str, tuple[int, float]] = {}
        for pair in self.firm:
            for arm, sign in ((pair.first, 1), (pair.second, -1)):
                wins, lead = score.get(arm, (0, 0.0))
                score[arm] = (wins + (sign > 0), lead + sign * pair.difference.mean)
        return sorted(score, key=lambda arm: score[arm], reverse=True)

    @property
    def leader(self) -> str | None:
        """The first of the ranking, where it may be called so: no arm is told apart from it that is above it. At matched
        KL, where every pair is read at a KL of its own, it has been read beside every other of the ranking, and is above it."""
        if not self.firm:
            return None
        first, *rest = self.ranking
        pairs = self.of(first)
        if any(pair.told_apart for pair in pairs if pair.first != first):
            return None
        above = {pair.second for pair in pairs if pair.first == first}
        return None if self.kind == "kl" and above != {*rest} else first

    @property
    def unread(self) -> list[tuple[str, str]]:
        """Every two arms of the ranking of which nothing can be claimed."""
        firm = {frozenset((pair.first, pair.second)) for pair in self.firm}
        return [pair for pair in itertools.combinations(self.ranking, 2) if frozenset(pair) not in firm]

    def of(self, arm: str) -> list[Pair]:
        """The firm pairs of this arm, its rivals in the order of the ranking."""
        order = {name: place for place, name in enumerate(self.ranking)}
        own = [pair for pair in self.firm if arm in (pair.first, pair.second)]
        return sorted(own, key=lambda pair: order[pair.rival(arm)])


@dataclass(frozen=True)
class Standings:
    """The three comparisons."""

    end: Standing
    cost: Standing
    kl: Standing


def standings(view: Evaluations) -> Standings:
    """All three, from every finished run's evaluations."""
    return Standings(own_end(view), equal_cost(view), matched_kl(view))


def own_end(view: Evaluations) -> Standing:
    """Each arm where its training ended."""
    values = {arm: view.at_end(arm, JUDGE) for arm in view.arms}
    return Standing("end", _pairs(values), values)


def equal_cost(view: Evaluations) -> Standing:
    """All arms at the largest total cost that every finished run reached, read off straight lines along each path.

    A run whose preparation alone costs more has no value there.
    """
    paths = paths_of(view, TOTAL_COST)
    ends = [float(path.x_N[-1]) for own in paths.values() for path in own.values()]
    if not ends:
        return Standing("cost")
    cost = min(ends)
    values = {
        arm: {s: at_cost(path.x_N, path.judge_N, cost) for s, path in own.items() if path.x_N[0] <= cost}
        for arm, own in paths.items()
    }
    early = {arm for arm, own in paths.items() if any(before_first(path, cost) for path in own.values())}
    pairs = tuple(_roughened(pair, early) for pair in _pairs(values))
    unprepared = tuple(arm for arm, own in values.items() if not own)
    return Standing("cost", pairs, values, cost, _readings(view, paths, values, cost), unprepared)


def _readings(
    view: Evaluations, paths: Mapping[str, Mapping[int, Path]], values: Mapping[str, Values], cost: float
) -> dict[str, Reading]:
    """Where the arms that have a value at this cost are in their training there."""
    used = budget_used(view)
    found = {}
    for arm, own in values.items():
        runs = {seed: paths[arm][seed] for seed in own}
        trained = {seed: at_cost(path.x_N, path.trained_N, cost) for seed, path in runs.items()}
        spent = [share * used.get((arm, seed), math.nan) for seed, share in trained.items()]
        if runs:
            prepared = np.mean([path.x_N[0] for path in runs.values()])
            found[arm] = Reading(
                float(np.mean(list(trained.values()))), float(np.mean(spent)), float(prepared)
            )
    return found


def matched_kl(view: Evaluations) -> Standing:
    """Every two arms at the smallest KL at which a run of theirs ended, on their common seeds.

    All of these runs went so far, and the one that sets the KL is read where its training ended: at the largest KL along
    its path, which it may have left again, it would be read half trained.
    """
    paths = paths_of(view, KL)
    found: list[Pair] = []
    straight: list[Pair] = []  # the same, read along lines straight in KL
    early: list[set[str]] = []
    for a, b in itertools.combinations(paths, 2):
        seeds = sorted(paths[a].keys() & paths[b].keys())
        runs = {arm: {seed: paths[arm][seed] for seed in seeds} for arm in (a, b)}
        kl = min((float(path.x_N[-1]) for own in runs.values() for path in own.values()), default=math.nan)
        if kl >= MIN_KL:
            found.append(_pair_at_kl(runs, kl, power=0.5))
            straight.append(_pair_at_kl(runs, kl, power=1.0))
            early.append(
                {arm for arm, own in runs.items() if any(before_first(path, kl) for path in own.values())}
            )
    pairs = zip(_with_holm(found), _with_holm(straight), early, strict=True)
    unmoved = tuple(arm for arm, own in paths.items() if any(path.x_N[-1] < MIN_KL for path in own.values()))
    return Standing(
        "kl",
        tuple(_roughened(pair, first | _bent(pair, other)) for pair, other, first in pairs),
        unmoved=unmoved,
    )


def _pair_at_kl(runs: Mapping[str, Mapping[int, Path]], kl: float, power: float) -> Pair:
    values = {
        arm: {seed: at_kl(path.x_N, path.judge_N, kl, power) for seed, path in own.items()}
        for arm, own in runs.items()
    }
    trained = {
        arm: [at_kl(path.x_N, path.trained_N, kl, power) for path in own.values()]
        for arm, own in runs.items()
    }
    means = {arm: float(np.mean(shares)) for arm, shares in trained.items()}
    return replace(_pair(values, *runs), kl=kl, trained=means)


def _bent(pair: Pair, other: Pair) -> set[str]:
    """Where two ways to read between evaluations decide a pair differently, the arm whose readings they move more."""
    if pair.ahead == other.ahead:
        return set()
    one, two = (
        {p.first: sum(p.of_first.values()), p.second: sum(p.of_second.values())} for p in (pair, other)
    )
    return {max(one, key=lambda arm: abs(one[arm] - two[arm]))}


def _roughened(pair: Pair, early: Collection[str]) -> Pair:
    return replace(pair, rough=tuple(arm for arm in (pair.first, pair.second) if arm in early))


def _pairs(values: Mapping[str, Values]) -> tuple[Pair, ...]:
    """Every two arms on their common seeds, with Holm over all of them."""
    return _with_holm([_pair(values, a, b) for a, b in itertools.combinations(values, 2)])


def _pair(values: Mapping[str, Values], a: str, b: str) -> Pair:
    """Not yet adjusted for any family: p_holm is its own p-value."""
    seeds = sorted(values[a].keys() & values[b].keys())
    if sum(values[b][seed] - values[a][seed] for seed in seeds) > 0:
        a, b = b, a
    of_a, of_b = ({seed: values[arm][seed] for seed in seeds} for arm in (a, b))
    difference = stats.paired_difference(list(of_a.values()), list(of_b.values()))
    return Pair(a, b, of_a, of_b, difference.estimate, difference.p_value)


def _with_holm(pairs: list[Pair]) -> tuple[Pair, ...]:
    adjusted = stats.holm([pair.p_holm for pair in pairs])
    return tuple(replace(pair, p_holm=p) for pair, p in zip(pairs, adjusted, strict=True))
