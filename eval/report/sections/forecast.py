"""How many seeds it would take to know more, as the verdict asks for them and the last section repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eval import format as fmt
from eval import stats
from eval.report import commands
from eval.report.caveats import conditions
from eval.report.inputs import JUDGE, ReportInput
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.objectives import leading
from eval.report.numbers.standings import Standing, Standings
from eval.report.sections import claims

MOST_SEEDS = 100  # what takes more than this many seeds to see is a small difference
SEEDS_TO_BEGIN_WITH = 5  # fewer give neither a useful interval nor a useful guess at how many would
MIN_SEEDS_TO_FORECAST = 3


@dataclass(frozen=True)
class Proposal:
    """What it would take to know more: in words, and the number of seeds to go on to, where there is one."""

    words: str = ""
    seeds: int | None = None

    def sentences(self, comparison: ReportInput) -> list[str]:
        """The words, with the command where a number is proposed; none where there is nothing to say."""
        if self.seeds is None:
            return [self.words] if self.words else []
        return [f"{self.words}: {commands.resume(comparison, self.seeds)}"]


def proposal(comparison: ReportInput, view: Evaluations, found: Standings) -> Proposal:
    """Empty where no run finished, or where all is told apart already."""
    ranked = found.end.ranking
    if not ranked:
        return Proposal()
    if single(found):
        return _first_seeds(view)
    if len(ranked) == 1:
        return _more_for_one(comparison, view, ranked[0])
    return _more_seeds(view, leading(comparison, found))


def single(found: Standings) -> bool:
    """Whether no arm has more than one finished run."""
    return max(len(values) for values in found.end.values.values()) == 1


def _more_seeds(view: Evaluations, lead: Standing) -> Proposal:
    """How many seeds would likely tell the leader from those that it is not told apart from."""
    leader = lead.leader
    if leader is None:
        return _first_seeds(view)
    open_pairs = [pair for pair in lead.of(leader) if not pair.told_apart]
    if not open_pairs:
        return Proposal()
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
        return Proposal(_beyond(leader, beyond))
    first = f"{_beyond(leader, beyond)} " if beyond else ""
    told = f"{'it' if beyond else leader} from {fmt.listing(list(wanted))}"
    measured = claims.seeds([pair.difference.n for pair in level])
    count = max(wanted.values())
    return Proposal(
        f"{first}About {count} seeds would likely tell {told} (a rough forecast from {measured}; testing again "
        "after adding seeds makes false claims about twice as likely)",
        count,
    )


def _beyond(leader: str, rivals: Sequence[str]) -> str:
    return (
        f"To tell {leader} from {fmt.listing(rivals)} would take more than {MOST_SEEDS} seeds: a difference, if there is "
        "one, is small beside the spread between seeds."
    )


def _more_for_one(comparison: ReportInput, view: Evaluations, arm: str) -> Proposal:
    gain = conditions.gain(comparison, view, arm)
    mean = gain.estimate.mean
    if gain.estimate.excludes_zero or gain.seeds.n == 0:
        return Proposal()
    if gain.seeds.n < MIN_SEEDS_TO_FORECAST or not gain.seeds.has_interval:
        return _first_seeds(view)
    if gain.prompts.has_interval and not gain.prompts.excludes_zero:
        return Proposal(
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
        return Proposal(f"To tell it from the base would take more than {MOST_SEEDS} seeds.")
    count = needed + view.runs["seed"].nunique() - gain.seeds.n  # those that failed are asked for again
    return Proposal(f"About {count} seeds would likely tell it from the base", count)


def _first_seeds(view: Evaluations) -> Proposal:
    """Where there are too few to forecast; nothing where as many were asked for and failed."""
    if view.runs["seed"].nunique() >= SEEDS_TO_BEGIN_WITH:
        return Proposal()
    algorithms = f"algorithm{'s' * (len(view.arms) != 1)}"
    words = f"For an answer about the {algorithms} begin with {SEEDS_TO_BEGIN_WITH} seeds"
    return Proposal(words, SEEDS_TO_BEGIN_WITH)
