"""Where a comparison reads its arms, how far in their training they are there, and whom it cannot place: as clauses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from eval import format as fmt
from eval.report.numbers.standings import MIN_KL, Standing

NAMED = 3  # arms or pairs that a sentence names with their numbers; of more it gives the range
BEFORE_ITS_END = 0.9  # of its training; an arm that is read earlier is said to be
AT_ITS_END = 0.99


def where(standing: Standing) -> str:
    """ "At equal total cost (…)", with what is not alike between the arms there."""
    if standing.kind == "end":
        return "At the end of training"
    return _cost(standing) if standing.kind == "cost" else _kl(standing)


def ended(standing: Standing) -> list[str]:
    """Arms that are at their end where all are at equal total cost."""
    return [arm for arm, reading in standing.readings.items() if reading.trained >= AT_ITS_END]


def early(standing: Standing) -> dict[str, float]:
    """Arms that are read before their end at equal total cost → share of their budget that they have spent there."""
    return {
        arm: reading.spent
        for arm, reading in standing.readings.items()
        if reading.trained < BEFORE_ITS_END and not math.isnan(reading.spent)
    }


def left_out(standing: Standing) -> str:
    """Arms and pairs of which this comparison says nothing, and why."""
    text = ""
    if standing.unprepared:
        text += f"; the preparation of {fmt.listing(standing.unprepared)} alone costs more"
    if rough := [arm for arm in standing.rough if arm not in standing.ranking]:
        it = "it" if len(rough) == 1 else "they"
        text += f"; {fmt.listing(rough)} cannot be placed: {it} passed {_passed(standing)} too far from any evaluation"
    if still := [arm for arm in standing.unmoved if arm not in standing.ranking]:
        text += f"; {fmt.listing(still)} hardly left the base and cannot be placed"
    if unread := [f"{a} against {b}" for a, b in standing.unread]:
        what = fmt.listing(unread) if len(unread) <= NAMED else f"{len(unread)} other pairs"
        text += f"; nothing can be claimed of {what} there"
    return text


def silence(standing: Standing) -> str:
    """Why a comparison says nothing of any pair; empty where it was simply not measured."""
    if standing.rough:
        return f"{fmt.listing(standing.rough)} passed {_passed(standing)} too far from any evaluation"
    if standing.unprepared:
        return f"the preparation of {fmt.listing(standing.unprepared)} alone costs more"
    if standing.unmoved:
        return f"{fmt.listing(standing.unmoved)} hardly left the base, in some run by less than {MIN_KL} nats"
    return ""


def nats(kl: float) -> str:
    """1.4, and near the base 0.06."""
    return fmt.number(kl, 1 if kl >= 1 else 2)


def _cost(standing: Standing) -> str:
    behind, ends = early(standing), ended(standing)
    if (behind or standing.unprepared) and ends:
        reached = f"where {_named(ends)} end{'s' * (len(ends) == 1)}"
    else:
        reached = (
            "all that the cheapest arm cost" if standing.unprepared else "the most that all arms reached"
        )
    return f"At equal total cost ({fmt.compact(standing.cost)} FLOPs, {reached}{_spent(standing, behind)})"


def _spent(standing: Standing, behind: Mapping[str, float]) -> str:
    """ "; ppo and reinforce have spent 10% of their budget there, preparation being 3.24×10¹¹": arms of equal share together,
    of many arms the range, and the preparation where it is most of the cost."""
    if not behind:
        return ""
    groups: dict[str, list[str]] = {}
    for arm in sorted(behind, key=behind.__getitem__):
        groups.setdefault(fmt.percent(behind[arm]), []).append(arm)
    shares = list(groups)
    if len(behind) > NAMED:
        text = f"; {len(behind)} arms have spent {fmt.span(shares)} of their budget there"
    else:
        first, *rest = groups.values()
        have, their = ("has", "its") if len(first) == 1 else ("have", "their")
        text = f"; {fmt.listing(first)} {have} spent {shares[0]} of {their} budget there"
        text += "".join(
            f", {fmt.listing(arms)} {share}" for arms, share in zip(rest, shares[1:], strict=True)
        )
    prepared = sorted(standing.readings[arm].prepared for arm in behind)
    if prepared[0] < standing.cost / 2:
        return text
    return f"{text}, preparation being {fmt.span([fmt.compact(cost) for cost in prepared])}"


def _kl(standing: Standing) -> str:
    firm = standing.firm
    if not firm:
        return "At matched KL"
    behind: dict[str, list[float]] = {}
    for pair in firm:
        for arm, share in pair.trained.items():
            if share < BEFORE_ITS_END:
                behind.setdefault(arm, []).append(share)
    if len(firm) == 1:
        return f"At matched KL ({firm[0].first} and {firm[0].second} at {nats(firm[0].kl)} nats{_passing(behind)})"
    kls = fmt.span([nats(kl) for kl in sorted(pair.kl for pair in firm)])
    return f"At matched KL (each pair where its first run ended, {kls} nats{_read(behind)})"


def _passing(behind: Mapping[str, list[float]]) -> str:
    """ ", which ppo passed after 7% of its training": of the one pair that was read."""
    if not behind:
        return ""
    (arm, (share,)), *rest = behind.items()
    their = "their" if rest else "its"
    others = "".join(f" and {other} after {fmt.percent(own)}" for other, (own,) in rest)
    return f", which {arm} passed after {fmt.percent(share)}{others} of {their} training"


def _read(behind: Mapping[str, list[float]]) -> str:
    """ ", after 7% to 80% of ppo's training, 75% of dpo's": of several pairs, those of many arms together."""
    if len(behind) > NAMED:
        return f", the first after {fmt.percent(min(map(min, behind.values())))} of training"
    shown = [
        f"{fmt.span([fmt.percent(share) for share in sorted(own)])} of {arm}'s" for arm, own in behind.items()
    ]
    return f", after {', '.join([f'{shown[0]} training', *shown[1:]])}" if shown else ""


def _named(arms: Sequence[str]) -> str:
    return fmt.listing(arms) if len(arms) <= NAMED else f"{len(arms)} arms"


def _passed(standing: Standing) -> str:
    """What the arms passed whose reading is rough: "that cost", "1.4 to 2.0 nats"."""
    if standing.kind != "kl":
        return "that cost"
    kls = sorted(pair.kl for pair in standing.known if pair.rough)
    return f"{fmt.span([nats(kl) for kl in kls])} nats"
