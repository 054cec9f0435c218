"""Whether runs, seeds and budgets are what they should be: (comparison, view) → sentences, none where all is well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eval import format as fmt
from eval import sessions, stats
from eval.report.caveats import conditions
from eval.report.inputs import JUDGE, KL, ReportInput
from eval.report.numbers import tables
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.standings import Standings

if TYPE_CHECKING:
    from pandas import DataFrame

FEW_SEEDS = 5
SHOWN = 3  # diverged runs that are told one by one
UNUSED = 0.95  # of the budget; an arm that used less has stopped by itself
OVERSPENT = 0.1  # of the budget; between the arms that used least and most of it, those aside that stopped by themselves


def unfinished(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Runs that failed or were never run."""
    runs = view.runs
    failed, missing = runs[runs["status"] == "failed"], runs[runs["status"] == "missing"]
    found = []
    if len(failed):
        names = [_name(arm, seed) for arm, seed in failed[["arm", "seed"]].itertuples(index=False)]
        flattered = " Means describe the runs that finished, which flatters an arm that fails."
        found.append(
            f"{len(failed)} of {len(runs)} run{'s' * (len(runs) != 1)} failed ({fmt.listing(names)})."
            f"{flattered if len(view.done) else ''}"
        )
    if len(missing):
        verb = "is" if len(missing) == 1 else "are"
        found.append(f"{len(missing)} of {len(runs)} runs {verb} still missing.")
    return found


def diverged(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Runs that their own watch found to have diverged (`eval.recording.divergence`), with when and why."""
    runs = view.runs[view.runs["diverged"] != ""]
    told = [
        f"{_name(arm, seed)} diverged at {reason}."
        for arm, seed, reason in runs[["arm", "seed", "diverged"]].itertuples(index=False)
    ]
    more = len(told) - SHOWN
    return [*told[:SHOWN], f"So did {more} more."] if more > 1 else told


def outlying(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Seeds far from the others of their arm (`stats.outlying`)."""
    found = []
    decimals = view.judge_decimals
    for arm in view.arms:
        values = view.at_end(arm, JUDGE)
        ordered = list(values.values())
        outlying = stats.outlying(ordered)
        others = [value for index, value in enumerate(ordered) if index not in outlying]
        for index in outlying:
            this, least, most = (
                fmt.number(value, decimals) for value in (ordered[index], min(others), max(others))
            )
            found.append(f"{_name(arm, list(values)[index])} ({this}, the others {least} to {most})")
    if not found:
        return []
    return [
        f"Far from the other seeds of the same arm in {fmt.label(JUDGE)}: {fmt.listing(found)}. A mean and its interval "
        "describe such an arm badly; look at every seed."
    ]


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


def few_prompts(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Fewer test prompts than can be resampled: seeds share them, so no interval over seeds holds what they favour."""
    count = conditions.evaluated_prompts(comparison)
    if not 0 < count < conditions.MIN_PROMPTS:
        return []
    return [
        f"With {fmt.counted(count, 'test prompt')} much depends on which were taken, and more seeds do not change that: another "
        "choice could give another verdict. Give more (--eval.prompts)."
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


def warm_up(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Arms with a run of which half the updates or more were made while the learning rate was still rising."""
    arms = comparison.facts.get("arms") or {}
    events = comparison.events
    found = []
    for arm in view.arms:
        warmup = float((arms.get(arm, {}).get("settings") or {}).get("warmup", 0.0))
        if not warmup or not len(events):
            continue
        own = events[events["arm"] == arm]
        if any(_warm_share(run, warmup) >= 0.5 for _, run in own.groupby("seed")):
            found.append(arm)
    if not found:
        return []
    return [
        f"{fmt.listing(found)} spent half or more of the updates of some run in warm-up, below the learning rate that was set: "
        "the budget is too small to judge by. Give a larger --budget or a smaller warm-up."
    ]


def _warm_share(run: DataFrame, warmup: float) -> float:
    """Share of a run's updates that began before the fraction `warmup` of it; `fraction` is that at an iteration's end."""
    ordered = run.sort_values("iteration")
    starts_N = np.concatenate([[0.0], ordered["fraction"].to_numpy(dtype=float)[:-1]])
    steps_N = np.diff(ordered["updates"].to_numpy(dtype=float), prepend=0.0)
    total = float(steps_N.sum())
    return float(steps_N[starts_N < warmup].sum()) / total if total else 0.0


def unused_budget(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Arms that stopped before their budget was spent; those that did alike in one sentence."""
    arms = comparison.facts.get("arms") or {}
    found: dict[str, list[str]] = {}
    for arm in view.arms:
        own = view.runs[(view.runs["arm"] == arm) & (view.runs["status"] == "done")]
        share = own["fraction"].astype(float).mean()
        if share < UNUSED:
            epochs = (arms.get(arm, {}).get("settings") or {}).get("epochs")
            end = f" (training ends after {epochs} epoch{'s' * (epochs != 1)})" if epochs else ""
            found.setdefault(f"used only {100 * share:.0f}% of the budget{end}.", []).append(arm)
    return [f"{fmt.listing(alike)} {what}" for what, alike in found.items()]


def overspent(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Arms that used more of the budget than others, as a run ends with an iteration."""
    done = view.runs[view.runs["status"] == "done"]
    used = {
        arm: share
        for arm in view.arms
        if (share := done.loc[done["arm"] == arm, "fraction"].astype(float).mean()) >= UNUSED
    }
    if len(used) < 2 or max(used.values()) - min(used.values()) < OVERSPENT:
        return []
    shown = fmt.listing([f"{arm} {100 * share:.0f}%" for arm, share in used.items()], 6)
    return [
        f"A run ends with the iteration that reaches its budget, and here that is much of it: {shown} of the budget were used. "
        "Give a larger --budget, or compare at equal cost."
    ]


def rough_readings(found: Standings) -> list[str]:
    """What would help where values at equal cost or matched KL lie too far from any evaluation; that nothing is claimed of
    them the verdict says."""
    places = {"at equal total cost": found.cost.rough, "at matched KL": found.kl.rough}
    shown = [f"of {fmt.listing(arms)} {place}" for place, arms in places.items() if arms]
    if not shown:
        return []
    remedy = ", or values of β that end at similar KL," if found.kl.rough else ""
    return [
        f"Evaluations {' and '.join(shown)} lie too far apart to interpolate: more of them (--eval.points){remedy} would "
        "help."
    ]


def unlike_places(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Runs that were made on another machine, or with other versions, than the last were."""
    made = [session for session in sessions.sessions(comparison.environment) if session.get("runs")]
    changed = list(dict.fromkeys(what for one in made[:-1] for what in sessions.changes(one, made[-1])))
    if not changed:
        return []
    more = [f"{len(changed) - SHOWN} more"] if len(changed) > SHOWN else []
    return [
        f"Not all runs were made in the same place ({fmt.listing([*changed[:SHOWN], *more])}): their times and memory cannot "
        "be compared, and the spread between seeds includes this difference."
    ]


def from_the_harness(comparison: ReportInput, view: Evaluations) -> list[str]:
    """What the task wants said."""
    return [str(note) for note in comparison.facts.get("notes") or []]


def _name(arm: Any, seed: Any) -> str:
    return f"{arm} seed {seed}"
