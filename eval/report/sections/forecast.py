"""How many seeds it would take to know more, as the verdict asks for them and the last section repeats."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from eval import format as fmt
from eval import stats
from eval.report import commands
from eval.report.caveats import conditions
from eval.report.inputs import JUDGE, ReportInput
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.objectives import leading
from eval.report.numbers.pairs import Pair
from eval.report.numbers.standings import Standing, Standings
from eval.report.sections import claims

MOST_SEEDS = 100  # what takes more than this many seeds to see is a small difference
SEEDS_TO_BEGIN_WITH = 5  # fewer give neither a useful interval nor a useful guess at how many would
MIN_SEEDS_TO_FORECAST = 3
TRAINING = "cost/train_seconds"


@dataclass(frozen=True)
class Proposal:
    """What it would take to know more: in words, and the number of seeds to go on to, where there is one. unforecast: of
    what no number is given, and why."""

    words: str = ""
    seeds: int | None = None
    unforecast: str = ""

    def sentences(self, comparison: ReportInput) -> list[str]:
        """The words, with the command where a number is proposed; none where there is nothing to say."""
        command = "" if self.seeds is None else f": {commands.resume(comparison, self.seeds)}"
        return [sentence for sentence in (self.unforecast, f"{self.words}{command}") if sentence]


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
    left = {pair.rival(leader): seeds for pair in level if (seeds := _left(pair))}
    steady = [pair for pair in level if pair.rival(leader) not in left]
    asked = view.runs["seed"].nunique()
    wanted = _wanted(lead, leader, steady, asked)
    beyond = [pair.rival(leader) for pair in steady if pair.rival(leader) not in wanted]
    which = f" to tell {leader} from {fmt.listing(list(left))}" if steady else ""
    aside = _unforecast(_by_arm(left.values()), which) if left else ""
    first = _beyond(leader, beyond) if beyond else ""
    if not wanted:
        return Proposal(first, unforecast=aside)
    count = max(wanted.values())
    told = f"{'it' if beyond else leader} from {fmt.listing(list(wanted))}"
    notes = [
        *_price(view, count - asked),
        f"a rough forecast from {claims.seeds([pair.difference.n for pair in steady])}",
        "testing again after adding seeds makes false claims about twice as likely",
    ]
    asking = f"About {count} seeds would likely tell {told} ({'; '.join(notes)})"
    return Proposal(f"{first} {asking}".lstrip(), count, aside)


def _wanted(lead: Standing, leader: str, pairs: Sequence[Pair], asked: int) -> dict[str, int]:
    """Rival → number of seeds to go on to, of the `asked` for so far; those left out that would take too many."""
    wanted: dict[str, int] = {}
    for pair in pairs:
        needed = stats.seeds_needed(pair.differences, max(lead.family, 1), most=MOST_SEEDS)
        if needed is not None:  # a seed that failed here does not count, so as many more are asked for
            wanted[pair.rival(leader)] = needed + asked - pair.difference.n
    return wanted


def _left(pair: Pair) -> dict[str, set[int]]:
    """Arm → its seeds far from its others, by which the differences of the pair are far from each other.

    The forecast takes differences for Gaussian. Where one seed makes nearly all of their spread it would say how many
    seeds drown that one out, and nothing of how often such a seed comes up.
    """
    seeds = list(pair.of_first)
    own = {pair.first: list(pair.of_first.values()), pair.second: [pair.of_second[seed] for seed in seeds]}
    found: dict[str, set[int]] = {}
    for index in stats.outlying(pair.differences):
        arm = max(own, key=lambda arm: abs(own[arm][index] - median(own[arm])))
        if index in stats.outlying(own[arm]):
            found.setdefault(arm, set()).add(seeds[index])
    return found


def _by_arm(left: Iterable[Mapping[str, set[int]]]) -> dict[str, set[int]]:
    """The same of several pairs together."""
    found: dict[str, set[int]] = {}
    for of_pair in left:
        for arm, seeds in of_pair.items():
            found.setdefault(arm, set()).update(seeds)
    return found


def _unforecast(left: Mapping[str, set[int]], which: str = "") -> str:
    """Why there is no number of seeds, for `which` question, and what to do instead."""
    counts = {arm: len(seeds) for arm, seeds in left.items()}
    who = fmt.listing([f"{'one' if n == 1 else n} seed{'s' * (n > 1)} of {arm}" for arm, n in counts.items()])
    lies = "lies" if sum(counts.values()) == 1 else "lie"
    others = "the others" if len(counts) == 1 else "the others of their arm"
    return (
        f"{who[0].upper()}{who[1:]} {lies} apart from {others}, so no number of seeds is forecast{which}. Look first at why "
        "(docs/choosing.md names the signs of too large a step, for which a smaller learning rate may settle more than seeds)."
    )


def _price(view: Evaluations, more: int) -> list[str]:
    """What so many more seeds of every arm take to train, by what a run of each took; nothing where that is not known."""
    seconds = [list(view.at_end(arm, TRAINING).values()) for arm in view.arms]
    if not all(seconds):
        return []
    which = " of each arm" if len(seconds) > 1 else ""
    return [f"{more} more{which}, {_roughly(more * sum(map(fmean, seconds)))} of training on one worker here"]


def _roughly(seconds: float) -> str:
    """In the unit that one would say it in: "about 21 minutes", "about 3 hours", "about 5 days"."""
    minutes = seconds / 60
    if minutes < 1:
        return "less than a minute"
    hours = minutes / 60
    count, unit = (
        (minutes, "minute") if hours < 1.5 else (hours, "hour") if hours < 48 else (hours / 24, "day")
    )
    return f"about {fmt.counted(round(count), unit)}"


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
    if outlying := stats.outlying(values):
        return Proposal(unforecast=_unforecast({arm: set(outlying)}))
    needed = stats.seeds_needed(values, most=MOST_SEEDS)
    if needed is None:
        return Proposal(f"To tell it from the base would take more than {MOST_SEEDS} seeds.")
    more = needed - gain.seeds.n  # those that failed are asked for again
    count = view.runs["seed"].nunique() + more
    price = "".join(f" ({each})" for each in _price(view, more))
    return Proposal(f"About {count} seeds would likely tell it from the base{price}", count)


def _first_seeds(view: Evaluations) -> Proposal:
    """Where there are too few to forecast; nothing where as many were asked for and failed."""
    if view.runs["seed"].nunique() >= SEEDS_TO_BEGIN_WITH:
        return Proposal()
    algorithms = f"algorithm{'s' * (len(view.arms) != 1)}"
    words = f"For an answer about the {algorithms} begin with {SEEDS_TO_BEGIN_WITH} seeds"
    return Proposal(words, SEEDS_TO_BEGIN_WITH)
