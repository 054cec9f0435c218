"""The tables of docs/statistics.md on the verdict: stored runs → Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial

import numpy as np

from benchmarks.calibration.stored import Stored
from benchmarks.calibration.trials import (
    BLOCK,
    Forecast,
    false_claims,
    forecasts,
    repetitions,
    resamplings,
    true_claims,
)
from benchmarks.page import markdown, percent, rate
from eval import stats
from eval.report.numbers.standings import equal_cost, matched_kl, own_end
from eval.report.sections.forecast import MOST_SEEDS

ARMS = ("reinforce", "ppo")
ALPHA = 0.05
DRAWS = 10_000
SEED = 0
RULES = (own_end, equal_cost, matched_kl)
RULE_HEADS = ["own ends", "equal cost", "matched KL", "readable at matched KL", "any of the three"]
NUMBERS = (3, 5, 10)
"""Seeds an arm that are tried."""
FULL = 5
"""At this number of seeds all three comparisons are resampled, at the others the arms' own ends."""
PILOTS = (3, 5)


def draws_of(stored: Stored, n: int, names: int) -> np.ndarray:
    """The resamplings behind a line of any table → seeds_RAN; every line begins the same stream anew."""
    return resamplings(stored.seeds, n, names, DRAWS, np.random.default_rng(SEED))


def runs(stored: Stored, pool: Executor) -> str:
    """What the stored runs are like: how far seeds lie apart, and whether they depend on each other."""
    from scipy.stats import kurtosis, skew

    across = np.corrcoef([stored.ends(arm) for arm in ARMS])[0, 1]
    lines = []
    for arm in ARMS:
        ends_S = stored.ends(arm)
        along = np.corrcoef(ends_S[:-1], ends_S[1:])[0, 1]
        numbers = [f"{ends_S.mean():.4f}", f"{ends_S.std(ddof=1):.4f}"]
        shapes = [_signed(value) for value in (skew(ends_S), kurtosis(ends_S), along, across)]
        lines.append([arm, str(len(ends_S)), *numbers, *shapes])
    head = [
        "arm",
        "runs",
        "mean",
        "sd",
        "skewness",
        "excess kurtosis",
        "correlation with the next seed",
        "with the other arm's same seed",
    ]
    return markdown(head, lines)


def real_false_claims(stored: Stored, pool: Executor) -> str:
    """A/A in repetitions that share no run."""
    lines = []
    for arm in ARMS:
        for n in (n for n in NUMBERS if 2 * n <= BLOCK):
            seeds_RAN = repetitions(stored.seeds, n, names=2)
            claimed_RQ = false_claims(RULES, stored.paths[arm], seeds_RAN)
            trials = len(seeds_RAN)
            cells = _rule_cells(claimed_RQ, lambda claims: f"{np.nansum(claims):.0f}")
            lines.append([arm, str(n), str(trials), _band(trials, ALPHA), *cells])
    return markdown(["arm", "seeds a name", "repetitions", "99% band of 5%", *RULE_HEADS], lines)


def resampled_false_claims(stored: Stored, pool: Executor) -> str:
    """A/A in resamplings: two names, then three with Holm over their three pairs."""
    cases = [(arm, 2, n) for arm in ARMS for n in NUMBERS] + [(ARMS[0], 3, n) for n in NUMBERS]
    jobs: list[Future[np.ndarray]] = []
    for arm, names, n in cases:
        rules = RULES if (names, n) == (2, FULL) else (own_end,)
        jobs.append(pool.submit(false_claims, rules, stored.paths[arm], draws_of(stored, n, names)))
    lines = []
    for (arm, names, n), job in zip(cases, jobs, strict=True):
        claimed_RQ = job.result()
        if claimed_RQ.shape[1] == len(RULES):
            cells = _rule_cells(claimed_RQ, lambda claims: percent(np.nanmean(claims)))
        else:
            cells = [rate(claimed_RQ[:, 0]), *["–"] * (len(RULE_HEADS) - 1)]
        lines.append([arm, str(names), str(n), *cells])
    return markdown(["arm", "names", "seeds a name", *RULE_HEADS], lines)


def _rule_cells(claimed_RQ: np.ndarray, text: Callable[[np.ndarray], str]) -> list[str]:
    """Claims of each of RULES and how many could be read at matched KL → cells under RULE_HEADS."""
    by_rule = [text(claimed_R) for claimed_R in claimed_RQ.T]
    return [*by_rule, text(~np.isnan(claimed_RQ[:, -1])), text(np.nansum(claimed_RQ, axis=1) > 0)]


def found_differences(stored: Stored, pool: Executor) -> str:
    """A/B: power as predicted and as found, on pairs of equal seeds; and what pairing costs or saves."""
    from scipy.stats import ttest_ind

    a, b = ARMS
    differences_S = stored.ends(b) - stored.ends(a)
    mean, sd = float(np.mean(differences_S)), float(np.std(differences_S, ddof=1))
    find = partial(true_claims, stored.paths[a], stored.paths[b])
    draws = {n: draws_of(stored, n, 1)[:, 0] for n in NUMBERS}
    jobs = {n: pool.submit(find, seeds_RN) for n, seeds_RN in draws.items()}
    lines = []
    for n, job in jobs.items():
        predicted = stats.power(mean, sd, n)
        found_R = find(repetitions(stored.seeds, n)[:, 0])
        real = [str(len(found_R)), _band(len(found_R), predicted), str(found_R.sum())]
        unpaired_p_R = ttest_ind(
            *(stored.ends(arm)[draws[n]] for arm in ARMS), axis=1, equal_var=False
        ).pvalue
        shares = [percent(predicted), rate(job.result()), rate(unpaired_p_R < ALPHA)]
        lines.append([str(n), _signed(mean, 4), f"{sd:.4f}", *shares, *real])
    head = [
        "seeds",
        f"{b} − {a}",
        "sd",
        "power predicted",
        "found, resampled",
        "by Welch's test, unpaired",
        "repetitions",
        "99% band of the prediction",
        "found",
    ]
    return markdown(head, lines)


def seeds_asked_for(stored: Stored, pool: Executor) -> str:
    """Pilots, the number of seeds they ask for, and what is found with so many."""
    a, b = ARMS
    needed = stats.seeds_needed(stored.ends(b) - stored.ends(a))
    paired_RAN = np.repeat(draws_of(stored, MOST_SEEDS, 1), 2, axis=1)
    disjoint_RAN = draws_of(stored, MOST_SEEDS, 2)
    cases = [(f"{a} and {b}", b, str(needed), paired_RAN), (f"{a} twice", a, "–", disjoint_RAN)]
    jobs = [
        ([title, truly, str(n)], pool.submit(forecasts, n, stored.paths[a], stored.paths[other], seeds_RAN))
        for title, other, truly, seeds_RAN in cases
        for n in PILOTS
    ]
    head = [
        "arms",
        "truly needed",
        "pilot's seeds",
        "told apart by the pilot",
        f"more than {MOST_SEEDS} asked for",
        "asked for: median [middle half]",
        "told apart, of those that were continued",
        "told apart in all",
    ]
    return markdown(head, [[*begin, *_forecast_cells(job.result())] for begin, job in jobs])


def _forecast_cells(found: Sequence[Forecast]) -> list[str]:
    wanted = [one.wanted for one in found if one.wanted is not None]
    low, median, high = np.quantile(wanted, [0.25, 0.5, 0.75])
    at_once, then = sum(one.at_once for one in found), sum(one.found for one in found)
    return [
        percent(at_once / len(found)),
        percent(1 - (at_once + len(wanted)) / len(found)),
        f"{median:.0f} [{low:.0f}, {high:.0f}]",
        percent(then / len(wanted)),
        percent((at_once + then) / len(found)),
    ]


def _band(trials: int, probability: float) -> str:
    """The counts that a binomial stays within 99 times of 100."""
    from scipy.stats import binom

    low, high = binom.interval(0.99, trials, probability)
    return f"{low:.0f} to {high:.0f}"


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


TABLES: dict[str, Callable[[Stored, Executor], str]] = {
    "stored-runs": runs,
    "real-false-claims": real_false_claims,
    "resampled-false-claims": resampled_false_claims,
    "found-differences": found_differences,
    "seeds-asked-for": seeds_asked_for,
}
