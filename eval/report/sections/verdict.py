"""The verdict: a few plain sentences on who is ahead, by how much, at what cost, and what it would take to know more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval import format as fmt
from eval.report.caveats import collected, conditions, runs
from eval.report.document import Block, Bullets, Section, Text
from eval.report.inputs import JUDGE, KL, ReportInput
from eval.report.numbers import objectives, tables
from eval.report.numbers.frames import Evaluations, evaluations
from eval.report.numbers.reachable import Reachable, reachable
from eval.report.numbers.standings import Standing, Standings, standings
from eval.report.sections import claims, forecast, frontier, in_short, reached, summary


@dataclass(frozen=True)
class Told:
    """The verdict in one line, where it can be said so, in sentences, and what to know before relying on them."""

    short: str
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]


def read(comparison: ReportInput) -> Told:
    """The verdict as the report's first section gives it, for the terminal."""
    view = evaluations(comparison)
    return _told(comparison, view, standings(view), reachable(comparison))


def section(
    comparison: ReportInput, view: Evaluations, found: Standings, best: Mapping[str, Reachable]
) -> Section:
    """The verdict, what its intervals hold for, and what to know before relying on it."""
    told = _told(comparison, view, found, best)
    blocks: list[Block] = [*summary.at_a_glance(view)]
    blocks += [Text(told.short, label="In short")] if told.short else []
    blocks.append(Bullets(told.sentences))
    if held := conditions.sentence(comparison, found):
        blocks.append(Text(held, label="What the intervals hold for"))
    if told.warnings:
        blocks += [Text("Before relying on this:"), Bullets(told.warnings)]
    return Section("verdict", "Verdict", tuple(blocks))


def _told(
    comparison: ReportInput, view: Evaluations, found: Standings, best: Mapping[str, Reachable]
) -> Told:
    warnings = [
        *collected.all_of(comparison, view),
        *runs.rough_readings(view, found),
        *frontier.caveats(comparison, view, best),
    ]
    sentences = (*_compose(comparison, view, found), *reached.sentences(best))
    return Told(_short(comparison, found), sentences, tuple(warnings))


def _short(comparison: ReportInput, found: Standings) -> str:
    if not found.end.ranking or forecast.single(found):
        return ""
    lead = objectives.leading(comparison, found)
    whole = (found.end, found.cost, *([found.kl] if objectives.readable(found) else []))
    return in_short.line(lead, [other for other in whole if other is not lead])


def _compose(comparison: ReportInput, view: Evaluations, found: Standings) -> list[str]:
    ranked = found.end.ranking
    if not ranked:
        what = "No finished run was judged" if len(view.done) else "No run has reached its end"
        return [f"{what}, so there is nothing to compare yet."]
    more = forecast.proposal(comparison, view, found).sentences(comparison)
    if forecast.single(found):
        return [*_one_seed(comparison, view, ranked), *summary.cost_sentences(view, ranked), *more]
    return [
        *(_arms(comparison, view, found, objectives.leading(comparison, found)) if len(ranked) > 1 else []),
        *_against_base(comparison, view, ranked),
        *summary.cost_sentences(view, ranked),
        *more,
    ]


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
        rest[-1] += f" The arms end at {ends} from the base."
    return [f"{first} This comparison comes first because {reason}.", *rest]


def _warning(reason: str, ends: str) -> str:
    """Own ends that are not on equal terms, and where they lie; empty without a reason."""
    lie = f", and the ends lie at {ends} from the base" if ends else ""
    return f" These ends are not on equal terms: {reason}{lie}." if reason else ""


def _end_kls(view: Evaluations) -> str:
    """ "1.5 (dpo), 2.1 (ppo) and 2.3 nats (reinforce)", where the arms end at different KL and it was measured; of many the
    least and the greatest."""
    kls = {arm: estimate.mean for arm in view.arms if (estimate := tables.at_end(view, arm, KL)).n}
    decimals = 1 if max(kls.values(), default=1) >= 1 else 3
    ordered = sorted(kls, key=kls.__getitem__)
    if len({fmt.number(kl, decimals) for kl in kls.values()}) < 2:
        return ""
    many = len(ordered) > objectives.MANY_ARMS
    named = [ordered[0], ordered[-1]] if many else ordered
    shown = [f"{fmt.number(kls[arm], decimals)}{' nats' * (arm == named[-1])} ({arm})" for arm in named]
    return " to ".join(shown) if many else fmt.listing(shown, limit=objectives.MANY_ARMS)


def _one_seed(comparison: ReportInput, view: Evaluations, ranked: Sequence[str]) -> list[str]:
    ends = fmt.listing([f"{arm} {claims.mean(view, arm)}" for arm in ranked])
    base = f", the base {_base(view)}" if JUDGE in view.base else ""
    warning = _warning(objectives.unlike_beta(comparison, ranked), _end_kls(view))
    alone = len(ranked) == 1
    who = "There is" if alone else "Each arm has" if len(ranked) == len(view.arms) else "No arm has more than"
    return [
        f"{who} one finished run, so how much a repetition would differ is not known and nothing is claimed about "
        f"the algorithm{'s' * (not alone)}.",
        f"In {'this run' if alone else 'these runs'} {fmt.label(JUDGE)} ended at: {ends}{base}.{warning}",
    ]


def _base(view: Evaluations) -> str:
    return fmt.number(view.base[JUDGE], view.judge_decimals)


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
    base = f"the untouched base ({fmt.label(JUDGE)} {_base(view)})"
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
            parts.append(f"{who} {what}: {claims.gains(view, [(arm, gains[arm]) for arm in group])}")
    return ["; ".join(parts) + conditions.of_prompts(found)]


def _count(some: int, all_: int) -> str:
    """ "The one arm", "All 3 arms", "2 of 3 arms"."""
    if some < all_:
        return f"{some} of {all_} arms"
    return "The one arm" if all_ == 1 else "Both arms" if all_ == 2 else f"All {all_} arms"
