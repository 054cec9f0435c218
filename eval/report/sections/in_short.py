"""The verdict in one line: who is ahead of whom, without numbers."""

from __future__ import annotations

from collections.abc import Sequence

from eval import format as fmt
from eval.report.numbers.standings import Standing
from eval.report.sections import places
from eval.report.sections.kinds import kind_of, outcome

MANY_ARMS = 4  # of more, whom the best is ahead of and no more


def line(lead: Standing, others: Sequence[Standing]) -> str:
    """ "ppo ahead of dpo; ppo and reinforce not told apart; at dpo's cost nothing told apart." The leading
    comparison, and of the others those that find something else; empty where it could not be said so shortly."""
    first = _of(lead)
    if not first:
        return ""
    told = [first if lead.kind == "end" else f"{_place(lead)} {first}"]
    if len(lead.ranking) <= MANY_ARMS:
        unlike = [standing for standing in others if outcome(standing) != outcome(lead)]
        told += [
            f"{_place(standing)} {said}" for standing in unlike if (said := _of(standing)) and said != first
        ]
    return f"{'; '.join(told)}."


def _of(standing: Standing) -> str:
    """The pairs of the best arm; empty where no arm is the best, or where there is more to a pair than whether it is told
    apart."""
    firm, leader = standing.firm, standing.leader
    if not firm or any(kind_of(standing, pair) not in ("told apart", "level") for pair in firm):
        return ""
    if not any(pair.told_apart for pair in firm):
        alone = f"{firm[0].first} and {firm[0].second} not told apart"
        return alone if len(standing.ranking) == 2 and standing.kind == "end" else "nothing told apart"
    if leader is None:
        return ""
    ahead = [pair.second for pair in standing.of(leader) if pair.told_apart]
    level = [pair.rival(leader) for pair in standing.of(leader) if not pair.told_apart]
    if len(standing.ranking) > MANY_ARMS:
        others = len(ahead) + len(level)
        whom = (
            fmt.listing(ahead) if len(ahead) <= places.NAMED else f"{len(ahead)} of the other {others} arms"
        )
        return f"{leader} ahead of {whom or 'no other arm'}"
    said = [f"{leader} ahead of {fmt.listing(ahead)}"] if ahead else []
    if level:
        one = f"{leader} and {level[0]} not told apart"
        said.append(
            one if len(level) == 1 else f"{leader} not told apart from {fmt.listing(level, link='or')}"
        )
    return "; ".join(said)


def _place(standing: Standing) -> str:
    """Where the arms were read: "at dpo's cost"."""
    if standing.kind != "cost":
        return "at matched KL" if standing.kind == "kl" else "at the end of training"
    ends = places.ended(standing)
    return f"at {ends[0]}'s cost" if len(ends) == 1 else "at equal total cost"
