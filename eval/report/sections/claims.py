"""Comparisons as clauses: what a standing says of its best arm and the others, with intervals, in plain English."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from eval import format as fmt
from eval.report.inputs import JUDGE
from eval.report.numbers import tables
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.standings import MIN_KL, ROUNDING, Pair, Standing
from eval.stats import Estimate, mean_interval

NAMED = 3  # arms that a sentence names with their numbers; of more it gives the range

Kind = Literal["told apart", "equal", "level", "no spread", "same difference", "one seed"]


def claim(standing: Standing, detailed: bool) -> str:
    """One sentence: the best arm, which arms it is ahead of, which it is not told apart from; where no arm is the best,
    what is known of pairs. `detailed`: by how much.

    Empty where there are no two arms of which something can be said.
    """
    if not standing.firm:
        return ""
    leader = standing.leader
    said = _led(standing, leader, detailed) if leader else _leaderless(standing, detailed)
    return f"{_where(standing)} {said}{_left_out(standing)}."


def _led(standing: Standing, leader: str, detailed: bool) -> str:
    pairs = standing.of(leader)
    of: dict[Kind, list[Pair]] = {}
    for pair in pairs:
        of.setdefault(_kind(standing, pair), []).append(pair)
    equal, ahead, level = of.get("equal", []), of.get("told apart", []), of.get("level", [])
    text = _best(standing, leader, equal, detailed)
    if ahead:
        # Of equal means the spreads may differ, so what follows is said of the one arm.
        text += f"; {leader} is ahead of " if equal else ", ahead of "
        text += _behind(leader, ahead, len(pairs), detailed)
    if level:
        who = "; it" if ahead else f"; {leader}" if equal else ", but"
        text += f"{who} cannot be told apart from {_rivals(leader, level, detailed, 'or')}"
        text += f" with {seeds([pair.difference.n for pair in level])}" if detailed else ""
        text += _uncorrected(standing, level) if detailed else ""
    for silent, why in (
        (of.get("no spread", []), "as there is no spread between seeds"),
        (of.get("same difference", []), "as {it} is the same in every seed"),
        (of.get("one seed", []), "as there is one common seed"),
    ):
        if silent:
            reason = why.format(it="it" if len(silent) == 1 else "each")
            text += f"; nothing is claimed of {leader}'s difference from {_rivals(leader, silent, detailed, 'and')}, {reason}"
    return text + _further(standing, leader)


def _uncorrected(standing: Standing, level: Sequence[Pair]) -> str:
    """Why pairs are not told apart of which an interval that is shown excludes 0."""
    if len(level) > NAMED or not any(pair.difference.excludes_zero for pair in level):
        return ""
    return f" (these are intervals before Holm's correction for {standing.family} pairs)"


def _kind(standing: Standing, pair: Pair) -> Kind:
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


def _same_mean(pair: Pair) -> bool:
    first, second = (float(np.mean(list(own.values()))) for own in (pair.of_first, pair.of_second))
    return math.isclose(first, second, rel_tol=ROUNDING, abs_tol=ROUNDING)


def _leaderless(standing: Standing, detailed: bool) -> str:
    """Pairs alone: of the arms none is above all others, or not beside all of them."""
    told = [pair for pair in standing.firm if pair.told_apart]
    if not told:
        text = "no two arms can be told apart"
        if detailed and len(standing.firm) <= NAMED:
            shown = [
                f"{pair.first} and {pair.second} {_size(pair, pair.first)}"
                f"{'' if pair.difference.has_interval else ', no interval'}"
                for pair in standing.firm
            ]
            text += f" ({fmt.listing(shown)}) with {seeds([pair.difference.n for pair in standing.firm])}"
            text += _uncorrected(standing, standing.firm)
    elif len(told) > NAMED:
        text = f"no arm is above all others; {len(told)} of {len(standing.firm)} pairs are told apart"
    else:
        shown = [
            f"{pair.first} is ahead of {pair.second}{f' by {_size(pair, pair.first)}' if detailed else ''}"
            for pair in told
        ]
        text = f"no arm is above all others: {fmt.listing(shown)}"
    return text


def others(lead: Standing, rest: Sequence[Standing]) -> list[str]:
    """What the comparisons beside the leading one say: together where they say the same, each in brief where not."""
    same = [standing for standing in rest if standing.firm and _outcome(standing) == _outcome(lead)]
    found = []
    if same:
        places = [_lower(_where(standing)) for standing in same]
        said = any(_kind(lead, pair) != "level" for pair in lead.firm)
        found.append(
            f"The same holds {fmt.listing(places)}."
            if said
            else f"Nor can any two arms be told apart {fmt.listing(places, link='or')}."
        )
    silent: dict[str, list[str]] = {}
    for standing in rest:
        if standing not in same and standing.firm:
            found.append(claim(standing, detailed=False))
        elif not standing.firm and (reason := _silence(standing)):
            silent.setdefault(reason, []).append(_where(standing))
    for reason, places_ in silent.items():
        where = fmt.listing([places_[0], *map(_lower, places_[1:])])
        found.append(f"{where} nothing can be claimed: {reason}.")
    return found


def mean(view: Evaluations, arm: str) -> str:
    return fmt.number(tables.at_end(view, arm, JUDGE).mean, view.judge_decimals)


def gains(view: Evaluations, arms: Sequence[tuple[str, Estimate]]) -> str:
    """Each arm's gain with its interval; of many arms the range of gains."""
    decimals = view.judge_decimals
    if len(arms) > NAMED:
        between = _range([gain.mean for _, gain in arms], decimals)
        return f"{between} ({fmt.listing([arm for arm, _ in arms])})"
    return fmt.listing([f"{arm} {_signed(gain, decimals)}" for arm, gain in arms])


def seeds(counts: Sequence[int]) -> str:
    """ "3 seeds", "2 to 3 seeds"."""
    shown = fmt.span([str(count) for count in sorted(counts)])
    return f"{shown} seed{'' if shown == '1' else 's'}"


def _signed(estimate: Estimate, decimals: int) -> str:
    """+0.300 [0.281, 0.319]; without an interval the mean alone."""
    return " ".join(fmt.with_interval(estimate, decimals, signed=True)).strip()


def _where(standing: Standing) -> str:
    reached = "all that the cheapest arm cost" if standing.unprepared else "the most that all arms reached"
    return {
        "end": "At the end of training",
        "cost": f"At equal total cost ({fmt.compact(standing.cost)} FLOPs, {reached})",
        "kl": "At matched KL (the same distance from the base, wherever in training an arm passed it)",
    }[standing.kind]


def _best(standing: Standing, leader: str, equal: Sequence[Pair], detailed: bool) -> str:
    """The best arm with its value, or those that share the place; where all arms do, none is the best."""
    at_kl, reward = standing.kind == "kl", fmt.label(JUDGE)
    value = ""
    if not at_kl:
        own = list(standing.values[leader].values())
        value = fmt.number(float(np.mean(own)), fmt.reward_decimals(own))
    if not equal:
        return f"{leader} is highest" if at_kl else f"{leader} has the highest {reward}, {value}"
    names = fmt.listing([leader, *(pair.rival(leader) for pair in equal)])
    spread = [_size(pair, leader) for pair in equal if pair.difference.has_interval]
    how = f"equal in {'the mean' if spread else 'every seed'}"
    how += f" ({fmt.listing(spread)})" if spread and detailed and len(spread) <= NAMED else ""
    if len(equal) == len(standing.ranking) - 1:
        return f"{names} are {how}" + ("" if at_kl else f", with a {reward} of {value}")
    return f"{names}, {how}, {'are highest' if at_kl else f'have the highest {reward}, {value}'}"


def _outcome(standing: Standing) -> tuple[object, ...]:
    """What two comparisons must share to say the same: the pairs, which of them are told apart, equal or without an
    interval, and then the best arm."""
    pairs = {frozenset((pair.first, pair.second)) for pair in standing.firm}
    kinds = {
        (pair.first, pair.second, kind)
        for pair in standing.firm
        if (kind := _kind(standing, pair)) != "level"
    }
    return pairs, kinds, standing.leader if kinds else ""


def _behind(leader: str, pairs: Sequence[Pair], count: int, detailed: bool) -> str:
    if len(pairs) > NAMED:
        who = f"all {count} other arms" if len(pairs) == count else f"{len(pairs)} of the other {count} arms"
        decimals = fmt.reward_decimals([reward for pair in pairs for reward in pair.rewards])
        return f"{who} by {_range([pair.difference.mean for pair in pairs], decimals)}"
    if not detailed:
        return fmt.listing([pair.rival(leader) for pair in pairs])
    return fmt.listing([f"{pair.rival(leader)} by {_size(pair, leader)}" for pair in pairs], link="and of")


def _rivals(leader: str, pairs: Sequence[Pair], detailed: bool, link: str) -> str:
    named = detailed and len(pairs) <= NAMED
    shown = [f"{pair.rival(leader)}{f' ({_size(pair, leader)})' if named else ''}" for pair in pairs]
    return fmt.listing(shown, link=link)


def _size(pair: Pair, leader: str) -> str:
    """The difference as seen from `leader`, with the KL at which it was read."""
    difference = pair.difference.negated if leader == pair.second else pair.difference
    shown = _signed(difference, fmt.reward_decimals(pair.rewards))
    return shown + ("" if np.isnan(pair.kl) else f" at {fmt.number(pair.kl, 1)} nats")


def _further(standing: Standing, leader: str) -> str:
    """What is known of the pairs without the best arm."""
    rest = [pair for pair in standing.firm if leader not in (pair.first, pair.second)]
    told = [pair for pair in rest if pair.told_apart]
    if not told:
        return ""
    if len(rest) == 1:
        return f"; {told[0].first} is ahead of {told[0].second}"
    return f"; {len(told)} of the other {len(rest)} pairs are told apart"


def _left_out(standing: Standing) -> str:
    """Arms and pairs of which this comparison says nothing, and why."""
    text = ""
    if standing.unprepared:
        text += f"; the preparation of {fmt.listing(standing.unprepared)} alone costs more"
    if early := [arm for arm in standing.rough if arm not in standing.ranking]:
        text += f"; {fmt.listing(early)} cannot be ranked, as no evaluation is close enough to that point"
    if still := [arm for arm in standing.unmoved if arm not in standing.ranking]:
        text += f"; {fmt.listing(still)} hardly left the base and cannot be ranked"
    if unread := [f"{a} against {b}" for a, b in standing.unread]:
        what = fmt.listing(unread) if len(unread) <= NAMED else f"{len(unread)} other pairs"
        text += f"; nothing can be claimed of {what} there"
    return text


def _silence(standing: Standing) -> str:
    """Why a comparison says nothing of any pair; empty where it was simply not measured."""
    if standing.rough:
        return f"{fmt.listing(standing.rough)} passed that point too far from any evaluation"
    if standing.unprepared:
        return f"the preparation of {fmt.listing(standing.unprepared)} alone costs more"
    if standing.unmoved:
        return f"{fmt.listing(standing.unmoved)} hardly left the base, in some run by less than {MIN_KL} nats"
    return ""


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _range(values: Sequence[float], decimals: int) -> str:
    return fmt.span([fmt.number(value, decimals, signed=True) for value in sorted(values)])
