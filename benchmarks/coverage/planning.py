"""What the number of seeds that a pilot asks for is worth."""

from __future__ import annotations

import numpy as np

from benchmarks.page import markdown, percent, rate
from eval import stats
from eval.stats.intervals import t_half_widths

ALPHA = 0.05
POWER = 0.8
PILOTS = 2_000
FEWEST = 100  # answers of which shares are given
PILOT_SEEDS = (3, 5, 10)
EFFECTS = (0.0, 0.5, 1.0, 2.0)


def promises(rng: np.random.Generator) -> str:
    """`seeds_needed` after pilots that settled nothing, and what came of running as many seeds as it said."""
    head = [
        "true difference",
        "truly needed",
        "pilot's seeds",
        "settled by the pilot",
        "no answer",
        "answer: median [middle half]",
        "answer not below the truly needed",
        "settled, of those with an answer",
        "settled in all",
    ]
    rows = [
        [f"{effect:g} sd", str(needed or "–"), str(n), *_promise(effect, needed, n, rng)]
        for effect, needed in ((effect, _truly_needed(effect)) for effect in EFFECTS)
        for n in PILOT_SEEDS
    ]
    return markdown(head, rows)


def _promise(effect: float, needed: int | None, n: int, rng: np.random.Generator) -> list[str]:
    at_once, kept, answers = 0, 0, []
    for _ in range(PILOTS):
        pilot_N = rng.normal(effect, 1, n)
        if _settled(pilot_N):
            at_once += 1
        elif (answer := stats.seeds_needed(pilot_N, power=POWER, alpha=ALPHA)) is not None:
            answers.append(answer)
            kept += _settled(np.append(pilot_N, rng.normal(effect, 1, answer - n)))
    ends = percent((at_once + kept) / PILOTS)
    settled, silent = percent(at_once / PILOTS), percent(1 - (at_once + len(answers)) / PILOTS)
    if len(answers) < FEWEST:
        return [settled, silent, "–", "–", "–", ends]
    low, median, high = np.quantile(answers, [0.25, 0.5, 0.75])
    enough = rate(np.array(answers) >= needed) if needed else "–"
    return [
        settled,
        silent,
        f"{median:.0f} [{low:.0f}, {high:.0f}]",
        enough,
        percent(kept / len(answers)),
        ends,
    ]


def _settled(differences_N: np.ndarray) -> bool:
    return bool(abs(differences_N.mean()) > t_half_widths(differences_N, 1 - ALPHA))


def _truly_needed(effect: float) -> int | None:
    """Seeds at which a true difference of that many standard deviations is found with the power; None for no effect."""
    return next((n for n in range(2, 1000) if stats.power(effect, 1, n, alpha=ALPHA) >= POWER), None)
