"""What to know before relying on the verdict: every caveat, each silent where nothing is amiss."""

from __future__ import annotations

from collections.abc import Callable

from eval.report.caveats import conditions, runs, seeds, validity
from eval.report.inputs import ReportInput
from eval.report.numbers.frames import Evaluations

Caveat = Callable[[ReportInput, Evaluations], list[str]]

CAVEATS: tuple[Caveat, ...] = (
    runs.unfinished,
    runs.diverged,
    seeds.outlying,
    seeds.identical,
    seeds.same_arms,
    seeds.few_seeds,
    runs.few_prompts,
    seeds.middle_half,
    validity.length,
    validity.cut_responses,
    validity.learned_models,
    validity.same_scorer,
    validity.unscored,
    validity.labels,
    validity.other_objective,
    runs.warm_up,
    runs.unused_budget,
    runs.overspent,
    conditions.nothing_replicated,
    runs.unlike_places,
    runs.from_the_harness,
)


def all_of(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Every caveat of `CAVEATS` that applies: first what went wrong, then what was measured, then how it was run."""
    return [sentence for caveat in CAVEATS for sentence in caveat(comparison, view)]
