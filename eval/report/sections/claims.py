"""Comparisons as clauses: what a standing says of its best arm and the others, with intervals, in plain English."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval import format as fmt
from eval.report.inputs import JUDGE
from eval.report.numbers import tables
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.pairs import Pair
from eval.report.numbers.standings import Standing
from eval.report.sections import places
from eval.report.sections.kinds import Kind, kind_of, outcome
from eval.report.sections.places import NAMED
from eval.stats import Estimate


def claim(standing: Standing, detailed: bool) -> str:
    """One sentence: the best arm, which arms it is ahead of, which it is not told apart from; where no arm is the best,
    what is known of pairs. `detailed`: by how much.

    Empty where there are no two arms of which something can be said.
    """
    if not standing.firm:
        return ""
    leader = standing.leader
    said = _led(standing, leader, detailed) if leader else _leaderless(standing, detailed)
    over = f", over {_over(standing)}," if detailed else ""
    return f"{places.where(standing)}{over} {said}{places.left_out(standing)}."


def _led(standing: Standing, leader: str, detailed: bool) -> str:
    pairs = standing.of(leader)
    of: dict[Kind, list[Pair]] = {}
    for pair in pairs:
        of.setdefault(kind_of(standing, pair), []).append(pair)
    equal, ahead, level = of.get("equal", []), of.get("told apart", []), of.get("level", [])
    text = _best(standing, leader, equal, detailed)
    if ahead:
        # Of equal means the spreads may differ, so what follows is said of the one arm.
        text += f"; {leader} is ahead of " if equal else ", ahead of "
        text += _behind(leader, ahead, len(pairs), detailed)
    if level:
        who = "; it" if ahead else f"; {leader}" if equal else ", but"
        text += f"{who} cannot be told apart from {_rivals(leader, level, detailed, 'or')}"
        common = seeds([pair.difference.n for pair in level])
        text += f" with {common}" if detailed and common != _over(standing) else ""
        text += _contrary(leader, level)
        text += _uncorrected(standing, level) if detailed else ""
    for silent, why in (
        (of.get("no spread", []), "as there is no spread between seeds"),
        (of.get("same difference", []), "as {it} is the same in every seed"),
        (of.get("one seed", []), "as there is one common seed"),
    ):
        if silent:
            reason = why.format(it="it" if len(silent) == 1 else "each")
            whom = _rivals(leader, silent, detailed, "and")
            text += f"; nothing is claimed of {leader}'s difference from {whom}, {reason}"
    return text + _further(standing, leader)


def _over(standing: Standing) -> str:
    """The seeds of a comparison: of its arms' own means, where they have one, else of its pairs."""
    own = [len(standing.values[arm]) for arm in standing.ranking if arm in standing.values]
    return seeds(own or [pair.difference.n for pair in standing.firm])


def above_it(arm: str, pairs: Sequence[Pair]) -> str:
    """ "reinforce is above it in 4 of 5 seeds", where this arm has the higher mean and is not told apart, and most seeds say
    the other way round; empty where none is."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.contrary and pair.first == arm:
            found.setdefault(f"in {pair.against} of {pair.difference.n} seeds", []).append(pair.second)
    told = [
        f"{fmt.listing(arms)} {'is' if len(arms) == 1 else 'are'} above it {count}"
        for count, arms in found.items()
    ]
    return fmt.listing(told)


def _contrary(leader: str, level: Sequence[Pair]) -> str:
    """The same as a relative clause, of the arms that were just named."""
    told = above_it(leader, level)
    if not told:
        return ""
    return f", which{told.removeprefix(level[0].second)}" if len(level) == 1 else f", of which {told}"


def _uncorrected(standing: Standing, level: Sequence[Pair]) -> str:
    """Why pairs are not told apart of which an interval that is shown excludes 0."""
    if len(level) > NAMED or not any(pair.difference.excludes_zero for pair in level):
        return ""
    return f" (these are intervals before Holm's correction for {standing.family} pairs)"


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
            text += f" ({fmt.listing(shown)})"
            text += _uncorrected(standing, standing.firm)
    elif len(told) > NAMED:
        text = f"no arm is above all others; {len(told)} of {len(standing.firm)} pairs are told apart"
    else:
        shown = [
            f"{pair.first} is ahead of {pair.second}{f' by {_size(pair, pair.first, signed=False)}' if detailed else ''}"
            for pair in told
        ]
        text = f"no arm is above all others: {fmt.listing(shown)}"
    return text


def others(lead: Standing, rest: Sequence[Standing]) -> list[str]:
    """What the comparisons beside the leading one say: together where they say the same, each in brief where not."""
    same = [standing for standing in rest if standing.firm and outcome(standing) == outcome(lead)]
    found = []
    if same:
        same_places = [_lower(places.where(standing)) for standing in same]
        said = any(kind_of(lead, pair) != "level" for pair in lead.firm)
        found.append(
            f"The same holds {fmt.listing(same_places)}."
            if said
            else f"Nor can any two arms be told apart {fmt.listing(same_places, link='or')}."
        )
    silent: dict[str, list[str]] = {}
    for standing in rest:
        if standing not in same and standing.firm:
            found.append(claim(standing, detailed=False))
        elif not standing.firm and (reason := places.silence(standing)):
            silent.setdefault(reason, []).append(places.where(standing))
    for reason, unread in silent.items():
        where = fmt.listing([unread[0], *map(_lower, unread[1:])])
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
    return fmt.listing([f"{arm} {_shown(gain, decimals)}" for arm, gain in arms])


def seeds(counts: Sequence[int]) -> str:
    """ "3 seeds", "2 to 3 seeds"."""
    shown = fmt.span([str(count) for count in sorted(counts)])
    return f"{shown} seed{'' if shown == '1' else 's'}"


def _shown(estimate: Estimate, decimals: int, signed: bool = True) -> str:
    """+0.300 [0.281, 0.319]; without an interval the mean alone."""
    return " ".join(fmt.with_interval(estimate, decimals, signed)).strip()


def _best(standing: Standing, leader: str, equal: Sequence[Pair], detailed: bool) -> str:
    """The best arm with its value, or those that share the place; where all arms do, none is the best."""
    at_kl, reward = standing.kind == "kl", fmt.label(JUDGE)
    value = ""
    if not at_kl:
        own = list(standing.values[leader].values())
        value = fmt.number(float(np.mean(own)), fmt.reward_decimals(own))
    if not equal:
        return f"{leader} is highest" if at_kl else f"{leader} has the highest mean {reward}, {value}"
    names = fmt.listing([leader, *(pair.rival(leader) for pair in equal)])
    spread = [_size(pair, leader) for pair in equal if pair.difference.has_interval]
    how = f"equal in {'the mean' if spread else 'every seed'}"
    how += f" ({fmt.listing(spread)})" if spread and detailed and len(spread) <= NAMED else ""
    if len(equal) == len(standing.ranking) - 1:
        return f"{names} are {how}" + ("" if at_kl else f", with a {reward} of {value}")
    return f"{names}, {how}, {'are highest' if at_kl else f'have the highest mean {reward}, {value}'}"


def _behind(leader: str, pairs: Sequence[Pair], count: int, detailed: bool) -> str:
    if len(pairs) > NAMED:
        who = f"all {count} other arms" if len(pairs) == count else f"{len(pairs)} of the other {count} arms"
        decimals = fmt.reward_decimals([reward for pair in pairs for reward in pair.rewards])
        return f"{who} by {_range([pair.difference.mean for pair in pairs], decimals, signed=False)}"
    if not detailed:
        return fmt.listing([pair.rival(leader) for pair in pairs])
    shown = [f"{pair.rival(leader)} by {_size(pair, leader, signed=False)}" for pair in pairs]
    return fmt.listing(shown, link="and of")


def _rivals(leader: str, pairs: Sequence[Pair], detailed: bool, link: str) -> str:
    named = detailed and len(pairs) <= NAMED
    shown = [f"{pair.rival(leader)}{f' ({_size(pair, leader)})' if named else ''}" for pair in pairs]
    return fmt.listing(shown, link=link)


def _size(pair: Pair, leader: str, signed: bool = True) -> str:
    """The difference as seen from `leader`."""
    difference = pair.difference.negated if leader == pair.second else pair.difference
    return _shown(difference, fmt.reward_decimals(pair.rewards), signed)


def _further(standing: Standing, leader: str) -> str:
    """What is known of the pairs without the best arm."""
    rest = [pair for pair in standing.firm if leader not in (pair.first, pair.second)]
    told = [pair for pair in rest if pair.told_apart]
    if not told:
        return ""
    if len(rest) == 1:
        return f"; {told[0].first} is ahead of {told[0].second}"
    return f"; {len(told)} of the other {len(rest)} pairs are told apart"


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _range(values: Sequence[float], decimals: int, signed: bool = True) -> str:
    return fmt.span([fmt.number(value, decimals, signed) for value in sorted(values)])
