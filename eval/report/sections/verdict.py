"""The verdict: a few plain sentences on who is ahead, by how much, at what cost, and what it would take to know more."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from eval import format as fmt
from eval import stats
from eval.report import commands
from eval.report.caveats import collected, conditions, runs
from eval.report.document import Block, Bullets, Section, Text
from eval.report.inputs import JUDGE, KL, ReportInput
from eval.report.numbers import objectives, tables
from eval.report.numbers.frames import Evaluations, evaluations
from eval.report.numbers.reachable import Reachable, reachable
from eval.report.numbers.standings import Standing, Standings, standings
from eval.report.sections import claims, frontier, summary

MOST_SEEDS = 100  # what takes more than this many seeds to see is a small difference
SEEDS_TO_BEGIN_WITH = 5  # fewer give neither a useful interval nor a useful guess at how many would
MIN_SEEDS_TO_FORECAST = 3


def sentences(comparison: ReportInput) -> list[str]:
    """The verdict as the report's first section gives it, for the terminal: a few plain sentences."""
    view = evaluations(comparison)
    return [*_compose(comparison, view, standings(view)), *frontier.sentences(reachable(comparison))]


def warnings(comparison: ReportInput) -> list[str]:
    """What to know before relying on the verdict, as the report has it below."""
    view = evaluations(comparison)
    return _warnings(comparison, view, standings(view), reachable(comparison))


def _warnings(
    comparison: ReportInput, view: Evaluations, found: Standings, best: Mapping[str, Reachable]
) -> list[str]:
    return [
        *collected.all_of(comparison, view),
        *runs.rough_readings(found),
        *frontier.caveats(comparison, view, best),
    ]


def section(
    comparison: ReportInput, view: Evaluations, found: Standings, best: Mapping[str, Reachable]
) -> Section:
    """The verdict, what its intervals hold for, and what to know before relying on it."""
    said = [*_compose(comparison, view, found), *frontier.sentences(best)]
    blocks: list[Block] = [*summary.at_a_glance(view), Bullets(tuple(said))]
    if held := conditions.sentence(comparison, found):
        blocks.append(Text(held, label="What the intervals hold for"))
    if warned := _warnings(comparison, view, found, best):
        blocks += [Text("Before relying on this:"), Bullets(tuple(warned))]
    return Section("verdict", "Verdict", tuple(blocks))


def proposed_seeds(comparison: ReportInput, view: Evaluations, found: Standings) -> int | None:
    """The number of seeds that the verdict proposes to go on to; None where it names none."""
    return _proposal(comparison, view, found).seeds


def leading(comparison: ReportInput, found: Standings) -> Standing:
    """The comparison that the verdict begins with: own ends; where the arms' β are not that of one objective, matched
    KL, if every two arms can be read there."""
    complete = not found.kl.unread and set(found.kl.ranking) == set(found.end.ranking)
    return found.kl if complete and objectives.unlike_beta(comparison, found.end.ranking) else found.end


def _compose(comparison: ReportInput, view: Evaluations, found: Standings) -> list[str]:
    ranked = found.end.ranking
    if not ranked:
        what = "No finished run was judged" if len(view.done) else "No run has reached its end"
        return [f"{what}, so there is nothing to compare yet."]
    more = _proposal(comparison, view, found).sentences(comparison)
    if _single(found):
        return [*_one_seed(comparison, view, ranked), *summary.cost_sentences(view, ranked), *more]
    return [
        *(_arms(comparison, view, found, leading(comparison, found)) if len(ranked) > 1 else []),
        *_against_base(comparison, view, ranked),
        *summary.cost_sentences(view, ranked),
        *more,
    ]


def _single(found: Standings) -> bool:
    """Whether no arm has more than one finished run."""
    return max(len(values) for values in found.end.values.values()) == 1


def _arms(comparison: ReportInput, view: Evaluations, found: Standings, lead: Standing) -> list[str]:
    """The arms against each other: the leading comparison in numbers, the other two in brief."""
    first = claims.claim(lead, detailed=True)
    if not first:
        return ["No two arms finished the same seed, so no pair of arms can be compared."]
    others = [standing for standing in (found.kl, found.cost, found.end) if standing is not lead]
    rest = claims.others(lead, others)
    reason, ends = objectives.unlike_beta(comparison, found.end.ranking), _end_kls(view)
    if lead is found.end:
        return [first + _warning(reason, ends), *rest]
    if ends and rest:
        rest[-1] += f" The {ends}."
    return [f"{first} This comparison comes first because {reason}.", *rest]


def _warning(reason: str, ends: str) -> str:
    """Own ends that are not on equal terms, and where they lie; empty without a reason."""
    return f" But {reason}{f', and the {ends}' if ends else ''}." if reason else ""


def _end_kls(view: Evaluations) -> str:
    """ "ends lie at different KL: dpo 1.5, ppo 2.1 and reinforce 2.3 nats", where it was measured and they do; of many
    arms the least and the greatest."""
    kls = {arm: estimate.mean for arm in view.arms if (estimate := tables.at_end(view, arm, KL)).n}
    decimals = 1 if max(kls.values(), default=1) >= 1 else 3
    shown = [f"{arm} {fmt.number(kls[arm], decimals)}" for arm in sorted(kls, key=kls.__getitem__)]
    if len({fmt.number(kl, decimals) for kl in kls.values()}) < 2:
        return ""
    told = f"{shown[0]} to {shown[-1]}" if len(shown) > objectives.MANY_ARMS else fmt.listing(shown)
    return f"arms end at different KL: {told} nats"


def _one_seed(comparison: ReportInput, view: Evaluations, ranked: Sequence[str]) -> list[str]:
    ends = fmt.listing([f"{arm} {claims.mean(view, arm)}" for arm in ranked])
    base = f", the base {fmt.number(view.base[JUDGE], 3)}" if JUDGE in view.base else ""
    warning = _warning(objectives.unlike_beta(comparison, ranked), _end_kls(view))
    alone = len(ranked) == 1
    who = "There is" if alone else "Each arm has" if len(ranked) == len(view.arms) else "No arm has more than"
    return [
        f"{who} one finished run, so how much a repetition would differ is not known and nothing is claimed about "
        f"the {_algorithms(ranked)}.",
        f"In {'this run' if alone else 'these runs'} {fmt.label(JUDGE)} ended at: {ends}{base}.{warning}",
    ]


def _algorithms(arms: Collection[str]) -> str:
    return f"algorithm{'s' * (len(arms) != 1)}"


def _against_base(comparison: ReportInput, view: Evaluations, ranked: Sequence[str]) -> list[str]:
    if JUDGE not in view.base:
        return ["The base was not evaluated, so no arm can be compared with it."]
    found = {arm: conditions.gain(comparison, view, arm) for arm in ranked}
    gains = {arm: gain.estimate for arm, gain in found.items()}
    above = [arm for arm in ranked if gains[arm].excludes_zero and gains[arm].mean > 0]
    below = [arm for arm in ranked if gains[arm].excludes_zero and gains[arm].mean < 0]
    unclear = [arm for arm in ranked if gains[arm].has_interval and not gains[arm].excludes_zero]
    once = [arm for arm in ranked if gains[arm].n == 1]
    constant = [arm for arm in ranked if gains[arm].n > 1 and not gains[arm].has_interval]
    base = f"the untouched base ({fmt.label(JUDGE)} {fmt.number(view.base[JUDGE], 3)})"
    parts: list[str] = []
    for group, says in (
        (above, "end{s} above {base}"),
        (below, "end{s} below {base}"),
        (unclear, "cannot be told apart from {base}"),
        (constant, "show{s} no spread between seeds, so no difference from {base} is claimed"),
        (once, "finished one seed, so no difference from {base} is claimed"),
    ):
        if group:
            who = str(len(group)) if parts else _count(len(group), len(ranked))
            if group is unclear and 1 < len(group) == len(
                ranked
            ):  # none of several: "all cannot" says it the long way
                who, says = (
                    "Neither arm" if len(group) == 2 else f"None of the {len(group)} arms",
                    "can be told apart from {base}",
                )
            what = says.format(s="s" * (len(group) == 1), base="it" if parts else base)
            parts.append(f"{who} {what}: {claims.gains([(arm, gains[arm]) for arm in group])}")
    return ["; ".join(parts) + conditions.of_prompts(found)]


def _count(some: int, all_: int) -> str:
    """ "The one arm", "All 3 arms", "2 of 3 arms"."""
    if some < all_:
        return f"{some} of {all_} arms"
    return "The one arm" if all_ == 1 else "Both arms" if all_ == 2 else f"All {all_} arms"


@dataclass(frozen=True)
class _Proposal:
    """What it would take to know more: in words, and the number of seeds to go on to, where there is one."""

    words: str = ""
    seeds: int | None = None

    def sentences(self, comparison: ReportInput) -> list[str]:
        if self.seeds is None:
            return [self.words] if self.words else []
        return [f"{self.words}: {commands.resume(comparison, self.seeds)}"]


def _proposal(comparison: ReportInput, view: Evaluations, found: Standings) -> _Proposal:
    ranked = found.end.ranking
    if not ranked:
        return _Proposal()
    if _single(found):
        return _first_seeds(view)
    if len(ranked) == 1:
        return _more_for_one(comparison, view, ranked[0])
    return _more_seeds(view, leading(comparison, found))


def _more_seeds(view: Evaluations, lead: Standing) -> _Proposal:
    """How many seeds would likely tell the leader from those that it is not told apart from."""
    leader = lead.leader
    if leader is None:
        return _first_seeds(view)
    open_pairs = [pair for pair in lead.of(leader) if not pair.told_apart]
    if not open_pairs:
        return _Proposal()
    # Of fewer seeds, and of differences that are the same in all, the spread is not known.
    level = [
        pair
        for pair in open_pairs
        if pair.difference.n >= MIN_SEEDS_TO_FORECAST and pair.difference.has_interval
    ]
    if not level:
        return _first_seeds(view)
    asked = view.runs["seed"].nunique()
    wanted: dict[str, int] = {}
    for pair in level:
        needed = stats.seeds_needed(pair.differences, max(lead.family, 1), most=MOST_SEEDS)
        if needed is not None:  # a seed that failed here does not count, so as many more are asked for
            wanted[pair.rival(leader)] = needed + asked - pair.difference.n
    beyond = [pair.rival(leader) for pair in level if pair.rival(leader) not in wanted]
    if not wanted:
        return _Proposal(_beyond(leader, beyond))
    first = f"{_beyond(leader, beyond)} " if beyond else ""
    told = f"{'it' if beyond else leader} from {fmt.listing(list(wanted))}"
    measured = claims.seeds([pair.difference.n for pair in level])
    count = max(wanted.values())
    return _Proposal(
        f"{first}About {count} seeds would likely tell {told} (a rough forecast from {measured}; testing again "
        "after adding seeds makes false claims about twice as likely)",
        count,
    )


def _beyond(leader: str, rivals: Sequence[str]) -> str:
    return (
        f"To tell {leader} from {fmt.listing(rivals)} would take more than {MOST_SEEDS} seeds: a difference, if there is "
        "one, is small beside the spread between seeds."
    )


def _more_for_one(comparison: ReportInput, view: Evaluations, arm: str) -> _Proposal:
    gain = conditions.gain(comparison, view, arm)
    mean = gain.estimate.mean
    if gain.estimate.excludes_zero or gain.seeds.n == 0:
        return _Proposal()
    if gain.seeds.n < MIN_SEEDS_TO_FORECAST or not gain.seeds.has_interval:
        return _first_seeds(view)
    if gain.prompts.has_interval and not gain.prompts.excludes_zero:
        return _Proposal(
            "More seeds alone would hardly tell it from the base: that takes more test prompts (--eval.prompts)."
        )
    # What the prompts leave of the gain, for the seeds to tell from 0: their half widths add in quadrature.
    prompts = gain.prompts.half_width if gain.prompts.has_interval else 0.0
    left = math.sqrt(max(mean**2 - prompts**2, 0.0))
    values = [
        value - view.base[JUDGE] - mean + math.copysign(left, mean)
        for value in view.at_end(arm, JUDGE).values()
    ]
    needed = stats.seeds_needed(values, most=MOST_SEEDS)
    if needed is None:
        return _Proposal(f"To tell it from the base would take more than {MOST_SEEDS} seeds.")
    count = needed + view.runs["seed"].nunique() - gain.seeds.n  # those that failed are asked for again
    return _Proposal(f"About {count} seeds would likely tell it from the base", count)


def _first_seeds(view: Evaluations) -> _Proposal:
    """Where there are too few to forecast; nothing where as many were asked for and failed."""
    if view.runs["seed"].nunique() >= SEEDS_TO_BEGIN_WITH:
        return _Proposal()
    words = f"For an answer about the {_algorithms(view.arms)} begin with {SEEDS_TO_BEGIN_WITH} seeds"
    return _Proposal(words, SEEDS_TO_BEGIN_WITH)
