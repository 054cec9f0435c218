"""Whether runs, budgets and evaluations are what they should be: (comparison, view) → sentences, none where all is well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eval import format as fmt
from eval import sessions
from eval.report.caveats import conditions
from eval.report.inputs import JUDGE, KL, ReportInput
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.readings import before_first, paths_of
from eval.report.numbers.standings import Standings

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = 3  # diverged runs that are told one by one
UNUSED = 0.95  # of the budget; an arm that used less has stopped by itself
OVERSPENT = 0.1  # of the budget; between the arms that used least and most of it, those aside that stopped by themselves
FEW_UPDATES = 10  # hardly more iterations, and runs are evaluated between iterations: there is no room for another evaluation


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


def few_prompts(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Fewer test prompts than can be resampled: seeds share them, so no interval over seeds holds what they favour."""
    count = conditions.evaluated_prompts(comparison)
    if not 0 < count < conditions.MIN_PROMPTS:
        return []
    return [
        f"With {fmt.counted(count, 'test prompt')} much depends on which were taken, and more seeds do not change that: another "
        "choice could give another verdict. Give more (--eval.prompts)."
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


def rough_readings(view: Evaluations, found: Standings) -> list[str]:
    """What would help where values at equal cost or matched KL lie too far from any evaluation; that nothing is claimed of
    them the verdict says."""
    at_once = _passed_at_once(view, found)
    at_kl = [arm for arm in found.kl.rough if arm not in at_once]
    places = {"at equal total cost": found.cost.rough, "at matched KL": at_kl}
    shown = [f"of {fmt.listing(arms)} {place}" for place, arms in places.items() if arms]
    said = []
    if at_once:
        its, it = ("its", "it") if len(at_once) == 1 else ("their", "them")
        within = fmt.span([str(count) for count in sorted(at_once.values())])
        said.append(
            f"{fmt.listing(list(at_once))} went past the matched KL before {its} first evaluation, within {within} "
            f"update{'s' * (within != '1')}, so evaluations can hardly place {it} there; a smaller learning rate or a warm-up "
            "would."
        )
    if shown:
        remedy = ", or values of β that end at similar KL," if at_kl else ""
        said.append(
            f"Evaluations {' and '.join(shown)} lie too far apart to interpolate: in a new comparison more of them "
            f"(--eval.points){remedy} would help."
        )
    return said


def _passed_at_once(view: Evaluations, found: Standings) -> dict[str, int]:
    """Arm → updates until its first evaluation, of those whose runs passed a matched KL before it and within so few updates
    that more evaluations could hardly see them pass."""
    paths = paths_of(view, KL)
    firsts: dict[str, list[float]] = {}
    for pair in found.kl.known:
        for arm in pair.rough:
            early = [seed for seed in pair.of_first if before_first(paths[arm][seed], pair.kl)]
            firsts.setdefault(arm, []).extend(_first_evaluated(view, arm, seed) for seed in early)
    return {arm: int(max(counts)) for arm, counts in firsts.items() if counts and max(counts) <= FEW_UPDATES}


def _first_evaluated(view: Evaluations, arm: str, seed: int) -> float:
    """Updates that a run had made at its first evaluation on the way."""
    rows = view.paths[(view.paths["arm"] == arm) & (view.paths["seed"] == seed) & (view.paths["point"] > 0)]
    measured = rows.dropna(subset=[KL, JUDGE]).sort_values("point")
    return float(measured["updates"].iloc[0])


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
