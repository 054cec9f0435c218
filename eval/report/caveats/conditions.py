"""What the verdict's intervals hold for: training seeds vary in them, and with --replicate-data what the data seed draws;
given data, judge and test prompts do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eval import format as fmt
from eval import stats
from eval.report.inputs import BASE, JUDGE, ReportInput
from eval.report.numbers import tables
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.pairs import Pair
from eval.report.numbers.standings import Standing, Standings

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MIN_PROMPTS = 16  # fewer are too few to resample
NOTICEABLE = 0.5  # of the seeds' own half width
REPLICATED = {
    frozenset(): "this data and reward",
    frozenset({"pairs"}): "this reward with pairs drawn anew for every seed",
    frozenset({"reward model"}): "these pairs with a reward model trained on them anew for every seed",
    frozenset({"pairs", "reward model"}): "pairs and reward models drawn anew for every seed",
}
"""What the data seed draws (facts.json, varies) → what intervals hold for under --replicate-data."""


@dataclass(frozen=True)
class Gain:
    """Arm minus base at the arm's end: over the arm's seeds, and over prompts as a mean of the seeds."""

    seeds: stats.Estimate
    prompts: stats.Estimate

    @property
    def estimate(self) -> stats.Estimate:
        """Over seeds and prompts together, which excludes 0 only where each does; over seeds alone where prompts give
        no interval."""
        return stats.combined(self.seeds, self.prompts) if self.prompts.has_interval else self.seeds

    @property
    def left_open(self) -> bool:
        """Whether the seeds alone would tell the arm from the base, but not together with the prompts."""
        return self.seeds.excludes_zero and not self.estimate.excludes_zero

    @property
    def seeds_alone(self) -> bool:
        """Whether the interval leaves out the noise of the prompts."""
        return self.seeds.has_interval and not self.prompts.has_interval


def sentence(comparison: ReportInput, found: Standings) -> str:
    """What is held fixed, how many pairs the claims are corrected for, what the prompts make of the first difference at the
    end where they count, and which claims there they could undo; empty without an interval there."""
    end = found.end
    if not any(pair.difference.has_interval for pair in end.known) and not _single(end):
        return ""
    text = (
        "95% intervals are over training seeds, one arm or pair at a time. They hold for "
        f"{_data(comparison)} and {_prompts(comparison)}.{_corrected(found)}"
    )
    undone = unsettled(comparison, end)
    return text + _against_base(comparison, end) + _other_prompts(comparison, end, undone) + _undone(undone)


def _corrected(found: Standings) -> str:
    """For how many pairs the claims of every comparison are corrected."""
    places = {"at the end": found.end, "at equal cost": found.cost, "at matched KL": found.kl}
    families = {
        place: standing.family for place, standing in places.items() if standing.family and standing.firm
    }
    counts = sorted(set(families.values()))
    if not counts or counts[-1] == 1:
        return ""
    each = fmt.listing([f"{count} {place}" for place, count in families.items()])
    pairs = f"{counts[0]} pairs" if len(counts) == 1 else f"all pairs of a comparison ({each})"
    return f" “Ahead” and “told apart” are judged at 5% after Holm's correction for {pairs}."


def nothing_replicated(comparison: ReportInput, view: Evaluations) -> list[str]:
    """A caveat: data were to be drawn anew for every seed, and there is nothing that is drawn."""
    if not comparison.settings.get("replicate_data") or comparison.facts.get("varies") != []:
        return []
    return [
        "No pairs were sampled and no reward model was learned, so --replicate-data had no effect: all seeds share data and "
        "reward."
    ]


def gain(comparison: ReportInput, view: Evaluations, arm: str) -> Gain:
    """The base was evaluated once, and what its prompts and responses happened to be no seed of the arm repeats:
    without the interval over prompts, enough seeds would tell any arm from it."""
    return Gain(tables.gain(view, arm), _gain_over_prompts(comparison.samples, arm, view.at_end(arm, JUDGE)))


def of_prompts(gains: Mapping[str, Gain]) -> str:
    """The end of the sentence on the base: what the prompts left open, and where they are left out."""
    left_open = [arm for arm, gain in gains.items() if gain.left_open]
    text = "."
    if left_open:
        whose = "its" if len(left_open) == 1 else "their"
        text += (
            f" By {whose} seeds alone {fmt.listing(left_open)} would be told apart from the base, but not once the noise of "
            "the prompts is counted."
        )
    if without := [arm for arm, gain in gains.items() if gain.seeds_alone]:
        mixed = any(gain.prompts.has_interval for gain in gains.values())
        who = f" of {fmt.listing(without)}" if mixed else ""
        text += f" The intervals{who} leave out the noise of the prompts."
    return text


def prompt_effect(comparison: ReportInput, pair: Pair) -> stats.Estimate:
    """The pair's difference at the end of training, averaged over seeds, as a mean over prompts with its interval."""
    return _over_prompts(_by_prompt(comparison.samples, pair.first, pair.second, pair.of_first))


def unsettled(comparison: ReportInput, end: Standing) -> list[Pair]:
    """The pairs that their seeds tell apart at the end of training, but not seeds and prompts together. Two arms of the
    same seed answer the same prompts, and what those happen to favour no seed varies."""
    told = [(pair, prompt_effect(comparison, pair)) for pair in end.firm if pair.told_apart]
    return [
        pair
        for pair, effect in told
        if effect.has_interval and not stats.combined(pair.difference, effect).excludes_zero
    ]


def evaluated_prompts(comparison: ReportInput) -> int:
    """Test prompts that were answered: as many as were asked for, or as there are."""
    samples = comparison.samples
    return int(samples.loc[samples["arm"] == BASE, "prompt_id"].nunique()) if len(samples) else 0


def _gain_over_prompts(samples: DataFrame, arm: str, seeds: Iterable[int]) -> stats.Estimate:
    """Arm minus base as a mean over prompts with its interval."""
    return _over_prompts(_by_prompt(samples, arm, BASE, seeds))


def _over_prompts(differences_P: np.ndarray) -> stats.Estimate:
    """A bootstrap with a fixed generator; Student's t where prompts are too few to resample."""
    if len(differences_P) < MIN_PROMPTS:
        return stats.mean_interval(differences_P)
    return stats.bootstrap_interval(differences_P, np.random.default_rng(0))


def _by_prompt(samples: DataFrame, first: str, second: str, seeds: Iterable[int]) -> np.ndarray:
    """Judge of first minus judge of second on each prompt that both answered, mean over these seeds: differences_P."""
    if not len(samples):
        return np.empty(0)
    differences = _prompt_means(samples, first, seeds) - _prompt_means(samples, second, seeds)
    return differences.dropna().to_numpy(dtype=float)


def _prompt_means(samples: DataFrame, arm: str, seeds: Iterable[int]) -> Series:
    """Prompt → judge, mean over these seeds; of the base, which has no seeds, its one evaluation."""
    own = samples[samples["arm"] == arm]
    own = own if arm == BASE else own[own["seed"].isin(list(seeds))]
    return own["judge"].astype(float).groupby(own["prompt_id"]).mean()


def _against_base(comparison: ReportInput, end: Standing) -> str:
    """How the intervals against the base differ from the others, where prompts are in them."""
    if not any(
        len(values) > 1 and _gain_over_prompts(comparison.samples, arm, values).has_interval
        for arm, values in end.values.items()
    ):
        return ""
    return " Intervals against the base, which was evaluated once, cover seeds and test prompts together."


def _other_prompts(comparison: ReportInput, end: Standing, undone: list[Pair]) -> str:
    """The two best at the end, where other prompts would move their difference noticeably: what is claimed over seeds and
    prompts together. Where nothing is, by how much each moves it."""
    if len(end.ranking) < 2:
        return ""
    leader, second = end.ranking[:2]
    for pair in end.known:
        if {pair.first, pair.second} == {leader, second} and pair.difference.has_interval:
            effect = prompt_effect(comparison, pair)
            if effect.has_interval and effect.half_width > NOTICEABLE * pair.difference.half_width:
                decimals = fmt.reward_decimals(pair.rewards)
                prompts, seeds = (fmt.number(each.half_width, decimals) for each in (effect, pair.difference))
                if pair.told_apart and pair not in undone:
                    both = stats.combined(pair.difference, effect)
                    shown = " ".join(fmt.with_interval(both, decimals))
                    return (
                        f" Over seeds and test prompts together {pair.first} is ahead of {pair.second} by {shown} (seeds alone "
                        f"± {seeds}, prompts alone ± {prompts})."
                    )
                return (
                    f" A different choice of prompts would move the difference between {leader} and {second} by about "
                    f"± {prompts} (95%), of seeds by ± {seeds}."
                )
    return ""


def _undone(pairs: list[Pair]) -> str:
    """The claims at the end of training that hold for these prompts alone."""
    if not pairs:
        return ""
    named = fmt.listing([f"{pair.first} from {pair.second}" for pair in pairs])
    return (
        f" At the end of training the seeds tell {named}, but over seeds and test prompts "
        f"together the interval{'s include' if len(pairs) > 1 else ' includes'} 0."
    )


def _single(end: Standing) -> bool:
    """One arm with several seeds, whose gain over the base has an interval."""
    return (
        len(end.ranking) == 1 and stats.mean_interval(list(end.values[end.ranking[0]].values())).has_interval
    )


def _data(comparison: ReportInput) -> str:
    settings, varies = comparison.settings, comparison.facts.get("varies") or []
    if settings.get("replicate_data"):
        return REPLICATED[frozenset(varies)]
    if not varies:
        return "this data and reward"
    seed, what = settings.get("data_seed", 0), fmt.listing([f"the {each}" for each in varies])
    return f"this data and reward (data seed {seed}, which all seeds share; --replicate-data varies {what})"


def _prompts(comparison: ReportInput) -> str:
    count = evaluated_prompts(comparison)
    if not count:
        return "these test prompts"
    return f"{'this' if count == 1 else 'these'} {fmt.counted(count, 'test prompt')}"
