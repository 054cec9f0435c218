"""What the verdict's intervals hold for: training seeds vary in them; data, reward model and test prompts do not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from eval import stats
from eval.report import format as fmt
from eval.report.inputs import BASE, ReportInput
from eval.report.standings import Pair, Standing

if TYPE_CHECKING:
    from pandas import DataFrame

MIN_PROMPTS = 16  # fewer cannot say how much other prompts would change
NOTICEABLE = 0.5  # of the seeds' own half width


def sentence(comparison: ReportInput, end: Standing, lead: Standing) -> str:
    """What is held fixed, how many pairs the claims of the leading comparison are corrected for, and by how much other
    prompts would move the first difference at the end; empty without an interval there."""
    if not any(pair.difference.has_interval for pair in end.known) and not _single(end):
        return ""
    text = (
        "95% intervals are over training seeds, one arm or pair at a time. They hold for "
        f"{_data(comparison)} and {_prompts(comparison)}."
    )
    family = sum(not math.isnan(pair.p_holm) for pair in lead.pairs)
    if family > 1:
        text += f" “Ahead” and “told apart” are judged at 5% after Holm's correction for {family} pairs."
    return text + _other_prompts(comparison, end)


def prompt_effect(comparison: ReportInput, pair: Pair) -> stats.Estimate:
    """The pair's difference at the end of training, averaged over seeds, as a mean over prompts with its interval.

    A bootstrap over prompts with a fixed generator; nan bounds where fewer than MIN_PROMPTS were answered by both.
    """
    differences_P = _by_prompt(comparison.samples, pair)
    if len(differences_P) < MIN_PROMPTS:
        return stats.Estimate(math.nan, math.nan, math.nan, len(differences_P))
    return stats.bootstrap_interval(differences_P, np.random.default_rng(0))


def evaluated_prompts(comparison: ReportInput) -> int:
    """Test prompts that were answered: as many as were asked for, or as there are."""
    samples = comparison.samples
    return int(samples.loc[samples["arm"] == BASE, "prompt_id"].nunique()) if len(samples) else 0


def _by_prompt(samples: DataFrame, pair: Pair) -> np.ndarray:
    """Judge of first minus judge of second on each prompt, mean over the pair's seeds: differences_P."""
    if not len(samples) or not pair.of_first:
        return np.empty(0)
    own = samples[samples["seed"].isin(list(pair.of_first))]
    means = own.groupby(["arm", "prompt_id"])["judge"].mean()
    arms = set(means.index.get_level_values("arm"))
    if not {pair.first, pair.second} <= arms:
        return np.empty(0)
    return (means[pair.first] - means[pair.second]).dropna().to_numpy(dtype=float)


def _other_prompts(comparison: ReportInput, end: Standing) -> str:
    if len(end.ranking) < 2:
        return ""
    leader, second = end.ranking[:2]
    for pair in end.known:
        if {pair.first, pair.second} == {leader, second} and pair.difference.has_interval:
            effect = prompt_effect(comparison, pair)
            if effect.has_interval and effect.half_width > NOTICEABLE * pair.difference.half_width:
                return (
                    f" Other prompts would move the difference between {leader} and {second} by "
                    f"± {fmt.number(effect.half_width, 3)}, beside the ± {fmt.number(pair.difference.half_width, 3)} of other seeds."
                )
    return ""


def _single(end: Standing) -> bool:
    """One arm with several seeds, whose gain over the base has an interval."""
    return len(end.ranking) == 1 and len(end.values[end.ranking[0]]) > 1


def _data(comparison: ReportInput) -> str:
    experiment = comparison.experiment
    if experiment.get("replicate_data"):
        return "pairs and reward models drawn anew for every seed"
    seed = experiment.get("data_seed", 0)
    return f"this data and reward (data seed {seed}, which all seeds share; --replicate-data varies it)"


def _prompts(comparison: ReportInput) -> str:
    count = evaluated_prompts(comparison)
    return f"these {count} test prompts" if count else "these test prompts"
