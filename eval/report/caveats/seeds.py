"""Whether an arm's seeds are what their mean and interval take them for: (comparison, view) → sentences, none where they
are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from eval import format as fmt
from eval import stats
from eval.report.caveats.validity import reward_models
from eval.report.inputs import JUDGE, KL, PROXY, ReportInput
from eval.report.numbers import tables
from eval.report.numbers.apart import Apart, apart
from eval.report.numbers.frames import Evaluations

FEW_SEEDS = 5
SHOWN = 3  # arms whose outlying seeds are told one by one


def outlying(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Seeds far from the others of their arm (`stats.outlying`), and what became of them: a sentence an arm, the farthest
    first."""
    found = sorted(
        (each for arm in view.arms for each in apart(view, arm)), key=lambda each: -max(each.gaps.values())
    )
    told = [_told(comparison, view, each) for each in found]
    if len(told) <= SHOWN + 1:
        return told
    rest = dict.fromkeys(each.arm for each in found[SHOWN:])
    return [*told[:SHOWN], f"Seeds of {fmt.listing(list(rest))} lie apart from the others of their arm, too."]


def _told(comparison: ReportInput, view: Evaluations, apart: Apart) -> str:
    who = f"{apart.arm} {_seeds(list(apart.ends))}"
    here, there = (_span(list(each.values()), view.judge_decimals) for each in (apart.ends, apart.others))
    if not apart.far(view.base.get(JUDGE, math.nan)):
        return f"{who} ({here}) {'lies' if len(apart.ends) == 1 else 'lie'} apart from the others ({there})."
    return (
        f"{who} ended at {fmt.label(JUDGE)} {here}, the others at {there}{_below_base(view, apart)}"
        f"{_exploiting(comparison, view, apart)}. The mean of {apart.arm} describes neither kind of run; look at every seed."
    )


def _below_base(view: Evaluations, apart: Apart) -> str:
    """Which of them ended below the base, above which the others are."""
    base = view.base[JUDGE]
    below = [seed for seed, end in apart.ends.items() if end < base]
    if not below or min(apart.others.values()) < base:
        return ""
    which = "and" if len(below) == len(apart.ends) else _seeds(below)
    return f", {which} below the base ({fmt.number(base, view.judge_decimals)})"


def _exploiting(comparison: ReportInput, view: Evaluations, apart: Apart) -> str:
    """Which of them the judge puts far below the others and the training reward does not. Nothing where the two are the
    same, where each seed has a reward model, and so a scale, of its own, or where the arm learns from pairs, not from that
    reward."""
    proxies = view.at_end(apart.arm, PROXY)
    others = [proxies[seed] for seed in apart.others if seed in proxies]
    one_reward = len(reward_models(comparison.facts)) < 2 and not comparison.facts.get("judge_is_reward")
    from_pairs = (comparison.facts.get("arms") or {}).get(apart.arm, {}).get("source") == "pairs"
    if not (apart.below and others and one_reward) or from_pairs:
        return ""
    exploiting = {
        seed: proxies[seed]
        for seed in apart.far(view.base[JUDGE])
        if proxies.get(seed, -math.inf) >= fmean(others)
    }
    if not exploiting:
        return ""
    decimals = fmt.reward_decimals(proxies.values())
    highest = min(exploiting.values()) > max(each for seed, each in proxies.items() if seed not in exploiting)
    one = len(exploiting) == 1
    its, it, be = ("its", "it exploits", "is") if one else ("their", "they exploit", "are")
    which = "" if len(exploiting) == len(apart.ends) else f" {_seeds(list(exploiting))}"
    mean = fmt.number(fmean(others), decimals)
    rank = f"the highest of {its} arm" if highest else f"no lower than the others' mean ({mean})"
    shown = _span(list(exploiting.values()), decimals)
    return (
        f",{which} although {its} {fmt.label(PROXY)}{'s' * (not one)} ({shown}) {be} {rank}: {it} the proxy"
    )


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {fmt.listing([str(seed) for seed in seeds])}"


def _span(values: Sequence[float], decimals: int) -> str:
    return fmt.span([fmt.number(value, decimals) for value in sorted(values)])


def identical(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Arms whose seeds all gave the same number."""
    same = [
        arm
        for arm in view.arms
        if len(view.at_end(arm, JUDGE)) > 1 and not tables.at_end(view, arm, JUDGE).has_interval
    ]
    if not same:
        return []
    return [
        f"All seeds of {fmt.listing(same)} gave the same {fmt.label(JUDGE)}, so how much seeds differ is not known and no "
        "interval is shown. A bounded score may have reached its end, or training have changed nothing: read the responses."
    ]


def same_arms(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Arms with the same judge reward and the same KL in all seeds that both finished, of which there are two or more."""
    groups: list[list[str]] = []
    for arm in view.arms:
        found = next((group for group in groups if _did_the_same(view, group[0], arm)), None)
        if found is None:
            groups.append([arm])
        else:
            found.append(arm)
    return [
        f"{fmt.listing(group)} did the same in every seed: what differs in their settings had no effect in these runs."
        for group in groups
        if len(group) > 1
    ]


def _did_the_same(view: Evaluations, a: str, b: str) -> bool:
    for metric in (JUDGE, KL):
        ends_a, ends_b = view.at_end(a, metric), view.at_end(b, metric)
        common = ends_a.keys() & ends_b.keys()
        if len(common) < 2 or any(ends_a[seed] != ends_b[seed] for seed in common):
            return False
    return True


def few_seeds(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Two to four seeds in some arm; of one seed the verdict itself speaks."""
    counts = [len(view.at_end(arm, JUDGE)) for arm in tables.ranking(view)]
    if not counts or max(counts) == 1 or min(counts) >= FEW_SEEDS:
        return []
    shown = fmt.span([str(count) for count in sorted(counts)])
    unseen = f"{100 * stats.unseen_share(min(counts)):.0f}%"
    return [
        f"With {shown} seeds an arm the intervals are wide, and a failure that occurs in fewer than {unseen} of runs may have gone "
        "unseen: treat close calls as open."
    ]


def middle_half(comparison: ReportInput, view: Evaluations) -> list[str]:
    """From eight seeds on: another arm leads when the best and the worst quarter of the seeds are left out."""
    values = {arm: list(view.at_end(arm, JUDGE).values()) for arm in tables.ranking(view)}
    if len(values) < 2 or min(map(len, values.values())) < stats.MIN_SEEDS_INTERQUARTILE:
        return []
    middle = {arm: stats.interquartile_mean(own) for arm, own in values.items()}
    leader, best = next(iter(values)), max(middle, key=middle.__getitem__)
    if best == leader:
        return []
    first, second = (fmt.number(middle[arm], view.judge_decimals) for arm in (best, leader))
    return [
        f"By the interquartile mean, which leaves out the best and the worst quarter of the seeds, {best} leads at the end "
        f"of training with {first}, before {leader} with {second}: single seeds decide here."
    ]
