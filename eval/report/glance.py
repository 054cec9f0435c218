"""The first section: what the numbers say, what they do not, and why. Plain sentences, computed."""

from __future__ import annotations

import math

from eval.report import format as fmt
from eval.report import tables
from eval.report.frames import Evaluations
from eval.report.inputs import JUDGE, ReportInput
from eval.stats import Estimate

FEW_SEEDS = 5


def sentences(comparison: ReportInput, view: Evaluations) -> tuple[str, ...]:
    """Two to five sentences: against the base, between arms, cost, how far seeds carry it, what failed."""
    ranked = tables.ranking(view)
    if not ranked:
        return ("No run has reached its end, so there is nothing to compare yet.", *_failed(view))
    most = max(len(view.at_end(arm, JUDGE)) for arm in ranked)
    if most == 1:
        found = [_one_seed(view, ranked)]
    else:
        found = [*_against_base(view, ranked), *_between(view, ranked), *_few_seeds(view, ranked)]
    return (*found, *_cost(view, ranked), *_failed(view))


def caveats(comparison: ReportInput, view: Evaluations) -> tuple[str, ...]:
    """What the harness wants said, and identical seeds, whose intervals would be empty."""
    same = [arm for arm in view.arms if len(view.at_end(arm, JUDGE)) > 1 and not _spread(view, arm)]
    notes = [str(note) for note in comparison.facts.get("notes") or []]
    if same:
        notes.append(
            f"All seeds of {fmt.listing(same)} gave the same {fmt.label(JUDGE)}: they are no independent repetitions, "
            "so no interval is shown."
        )
    return tuple(notes)


def _one_seed(view: Evaluations, ranked: list[str]) -> str:
    ends = fmt.listing([f"{arm} {_mean(view, arm)}" for arm in ranked])
    base = f", the base {fmt.number(view.base[JUDGE], 3)}" if JUDGE in view.base else ""
    return (
        f"Each arm ran with one seed, so how much a repetition would differ is not known and nothing is claimed about "
        f"the algorithms. In these runs {fmt.label(JUDGE)} ended at: {ends}{base}."
    )


def _against_base(view: Evaluations, ranked: list[str]) -> list[str]:
    if JUDGE not in view.base:
        return ["The base was not evaluated, so no arm can be compared with it."]
    gains = {arm: tables.gain(view, arm) for arm in ranked}
    above = [arm for arm in ranked if gains[arm].excludes_zero and gains[arm].mean > 0]
    below = [arm for arm in ranked if gains[arm].excludes_zero and gains[arm].mean < 0]
    unclear = [arm for arm in ranked if arm not in above and arm not in below]
    base = f"the untouched base ({fmt.label(JUDGE)} {fmt.number(view.base[JUDGE], 3)})"
    parts: list[str] = []
    for group, says in (
        (above, "above {}, with a 95% interval of the gain that excludes 0"),
        (below, "below {}, with a 95% interval of the loss that excludes 0"),
        (unclear, "where {} cannot be told apart"),
    ):
        if group:
            who = _count(len(group), len(ranked)) if not parts else str(len(group))
            shown = fmt.listing([_gain_words(arm, gains[arm]) for arm in group])
            parts.append(
                f"{who} end{'s' * (len(group) == 1)} {says.format('it' if parts else base)}: {shown}"
            )
    return ["; ".join(parts) + "."]


def _count(some: int, all_: int) -> str:
    """ "The one arm", "All 3 arms", "2 of 3 arms"."""
    if some < all_:
        return f"{some} of {all_} arms"
    return "The one arm" if all_ == 1 else "Both arms" if all_ == 2 else f"All {all_} arms"


def _between(view: Evaluations, ranked: list[str]) -> list[str]:
    if len(ranked) < 2:
        return []
    leader, others = ranked[0], ranked[1:]
    against = {
        p.second if p.first == leader else p.first: p
        for p in tables.pairs(view)
        if leader in (p.first, p.second)
    }
    behind = [arm for arm in others if against[arm].told_apart and against[arm].first == leader]
    equal = [arm for arm in others if arm not in behind]
    text = f"Between arms: {leader} has the highest mean, {_mean(view, leader)}"
    if behind:
        shown = [
            f"{arm} (by {_signed(against[arm].difference)}, p {_p(against[arm].p_holm)})" for arm in behind
        ]
        text += f", and is ahead of {fmt.listing(shown)}"
    if equal:
        joint = ", but " if behind else "; it "
        text += f"{joint}cannot be told apart from {fmt.listing(equal)} with {_seeds(view, [leader, *equal])}"
    return [text + " (paired by seed, Holm's correction over all pairs)."]


def _few_seeds(view: Evaluations, ranked: list[str]) -> list[str]:
    fewest = min(len(view.at_end(arm, JUDGE)) for arm in ranked)
    if fewest >= FEW_SEEDS:
        return []
    return [
        f"With {_seeds(view, ranked)} the intervals are wide, and a way to fail that shows in one run of ten has "
        "probably not been seen: treat close calls as open."
    ]


def _cost(view: Evaluations, ranked: list[str]) -> list[str]:
    costs = {arm: tables.at_end(view, arm, "cost/total_flops").mean for arm in ranked}
    known = {arm: cost for arm, cost in costs.items() if math.isfinite(cost) and cost > 0}
    if len(known) < 2:
        return []
    cheap, dear = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    ratio = known[dear] / known[cheap]
    if ratio < 1.2:
        return [
            f"In total cost the arms are alike, {fmt.compact(known[cheap])} to {fmt.compact(known[dear])} FLOPs."
        ]
    return [
        f"In total cost {cheap} is the cheapest with {fmt.compact(known[cheap])} FLOPs, {dear} the dearest with "
        f"{fmt.number(ratio, 1)} times as much."
    ]


def _failed(view: Evaluations) -> list[str]:
    runs = view.runs
    failed = runs[runs["status"] == "failed"]
    missing = runs[runs["status"] == "missing"]
    found = []
    if len(failed):
        names = [f"{arm} seed {seed}" for arm, seed in failed[["arm", "seed"]].itertuples(index=False)]
        verb = "run" if len(runs) == 1 else "runs"
        flattered = " Means describe the runs that finished, which flatters an arm that fails."
        found.append(
            f"{len(failed)} of {len(runs)} {verb} failed ({fmt.listing(names)}).{flattered if len(view.done) else ''}"
        )
    if len(missing):
        found.append(f"{len(missing)} of {len(runs)} runs are still missing.")
    return found


def _mean(view: Evaluations, arm: str) -> str:
    return fmt.number(tables.at_end(view, arm, JUDGE).mean, 3)


def _gain_words(arm: str, gain: Estimate) -> str:
    return (
        f"{arm} {_signed(gain)}"
        if gain.has_interval
        else f"{arm} {fmt.number(gain.mean, 3, signed=True)} (no interval)"
    )


def _signed(estimate: Estimate) -> str:
    return f"{fmt.number(estimate.mean, 3, signed=True)} {fmt.interval(estimate, 3)}"


def _p(p: float) -> str:
    text = fmt.p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _seeds(view: Evaluations, arms: list[str]) -> str:
    counts = sorted({len(view.at_end(arm, JUDGE)) for arm in arms})
    shown = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{shown} seed{'' if shown == '1' else 's'}"


def _spread(view: Evaluations, arm: str) -> bool:
    return tables.at_end(view, arm, JUDGE).has_interval
