"""Whether judge, reward and labels measure what they should: (comparison, view) → sentences, none where all is well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from eval import format as fmt
from eval.report.inputs import BASE, JUDGE, PROXY, ReportInput
from eval.report.numbers import objectives
from eval.report.numbers.frames import Evaluations

if TYPE_CHECKING:
    from pandas import DataFrame

MIN_PROMPTS = 16  # that the base answered, for a slope of the judge on length
MATERIAL_LENGTH = 0.1  # change of the mean length, of the base's
EXPLAINED = 0.5  # share of the gain that length would explain
NEAR_CHANCE = 0.55  # share of pairs ordered right
MANY_CUT = 0.05  # share of pairs with a response that training cuts
UNSCORED = "unscored"


def length(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Gains of which the base's own relation of judge and length would explain half or more (Singhal et al. 2023).

    The slope of the judge on length over the base's responses, which no training has touched, times the change of the
    mean length, against the gain. Silent where the length changed by less than a tenth, the slope may be 0 (p ≥ 0.05),
    or the gain is less than two standard errors over prompts.
    """
    samples = comparison.samples
    slope = _judge_on_length(samples) if len(samples) else 0.0
    if not slope:
        return []
    found = []
    for arm in view.arms:
        before, after, gain = _change(samples, arm)
        predicted = slope * (after - before)
        if abs(after - before) < MATERIAL_LENGTH * before or not gain > 0 or predicted < EXPLAINED * gain:
            continue
        share = "all" if predicted >= gain else f"{100 * predicted / gain:.0f}%"
        found.append(
            f"{arm}'s responses {'grew' if after > before else 'shrank'} from {before:.1f} to {after:.1f} tokens. Among the base's own "
            f"responses the judge gives {fmt.number(slope, fmt.decimals_for([slope]), signed=True)} a token, which alone would account for "
            f"{share} of {arm}'s gain: it may have learned length rather than quality."
        )
    return found


def _judge_on_length(samples: DataFrame) -> float:
    """Slope of the judge on length over the base's responses [judge a token]; 0 where it may be 0 (p ≥ 0.05) or the
    prompts are too few.

    Responses to one prompt are not independent, for they share what the judge thinks of it: the slope's standard error is
    that of leaving out one prompt after another (the cluster jackknife, MacKinnon, Nielsen and Webb 2023).
    """
    from scipy.stats import t

    base = samples.loc[samples["arm"] == BASE, ["prompt_id", "length", "judge"]].dropna()
    prompts = base["prompt_id"].nunique()
    if prompts < MIN_PROMPTS or base["length"].nunique() < 2:
        return 0.0
    x, y = (base[column].astype(float) - base[column].astype(float).mean() for column in ("length", "judge"))
    sums = (
        base.assign(n=1.0, x=x, y=y, xx=x * x, xy=x * y)
        .groupby("prompt_id")[["n", "x", "y", "xx", "xy"]]
        .sum()
    )
    n_P, x_P, y_P, xx_P, xy_P = (sums.sum() - sums).to_numpy(dtype=float).T  # of all other prompts
    slope = float((x * y).sum() / (x * x).sum())
    spread_P = xx_P - x_P**2 / n_P
    if (spread_P <= 1e-9 * xx_P).any():  # all lengths but one prompt's are the same
        return 0.0
    slopes_P = (xy_P - x_P * y_P / n_P) / spread_P
    error = math.sqrt((prompts - 1) / prompts * float(np.sum((slopes_P - slope) ** 2)))
    return slope if abs(slope) > error * t.ppf(0.975, prompts - 1) else 0.0


def _change(samples: DataFrame, arm: str) -> tuple[float, float, float]:
    """Mean length before and after on the prompts that both answered, and the gain where it is above two standard
    errors, else 0."""
    means = samples.groupby(["arm", "prompt_id"])[["length", "judge"]].mean()
    if arm not in means.index.get_level_values("arm"):
        return 1.0, 1.0, 0.0
    both = means.loc[BASE].join(means.loc[arm], lsuffix="_base", rsuffix="_arm", how="inner").dropna()
    gains_P = (both["judge_arm"] - both["judge_base"]).to_numpy(dtype=float)
    noise = float(np.std(gains_P, ddof=1)) / math.sqrt(len(gains_P)) if len(gains_P) > 1 else math.inf
    gain = float(gains_P.mean()) if len(gains_P) and gains_P.mean() > 2 * noise else 0.0
    return float(both["length_base"].mean()), float(both["length_arm"].mean()), gain


def learned_models(comparison: ReportInput, view: Evaluations) -> list[str]:
    """A reward model of any data seed, or a judge learned from pairs, that may order held-out pairs little better than a
    coin."""
    rewards = reward_models(comparison.facts)
    near = {seed: told for seed, about in rewards.items() if (told := _near_chance(about))}
    said = []
    if near:
        which = f" of data seed {next(iter(near))}" if len(rewards) > 1 else ""
        more = len(near) - 1
        also = (
            f"; so {'does' if more == 1 else 'do'} {more} more of the {len(rewards)} reward models"
            if more
            else ""
        )
        said.append(f"The reward model{which} orders {next(iter(near.values()))}{also}")
    if told := _near_chance(comparison.facts.get("judge_model") or {}):
        said.append(f"The judge, a model learned from pairs, orders {told}")
    rate = (comparison.settings.get("reward_model") or {}).get("learning_rate")
    now = f" (now {fmt.compact(rate)})" if rate else ""
    remedy = (
        "what follows it may follow noise. More pairs, more epochs on them, or for a small model a larger "
        f"--reward-model.learning-rate{now}, would help."
    )
    return [f"{sentence}: {remedy}" for sentence in said]


def reward_models(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Data seed → what is known of its reward model; of one for all under an empty name, and empty where none was learned."""
    seeds: Mapping[str, Any] = facts.get("data_seeds") or {"": facts}
    return {seed: about["reward_model"] for seed, about in seeds.items() if about.get("reward_model")}


def _near_chance(about: Mapping[str, Any]) -> str:
    """How a learned model orders held-out pairs, with its interval; empty where that is well above chance."""
    low, high = accuracy_interval(about)
    if math.isnan(low) or low > NEAR_CHANCE:
        return ""
    accuracy, pairs = float(about["accuracy"]), int(about["heldout_pairs"])
    return f"{accuracy:.2f} of {pairs:,} held-out pairs right (95% interval {low:.2f} to {high:.2f}; a coin 0.50)"


def accuracy_interval(about: Mapping[str, Any]) -> tuple[float, float]:
    """Wilson's 95% interval of the share of held-out pairs that a learned model orders as labelled; nan where unknown."""
    from statsmodels.stats.proportion import proportion_confint

    if "accuracy" not in about or not about.get("heldout_pairs"):
        return math.nan, math.nan
    pairs = int(about["heldout_pairs"])
    low, high = proportion_confint(round(float(about["accuracy"]) * pairs), pairs, method="wilson")
    return float(low), float(high)


def cut_responses(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Recorded pairs whose responses are longer than what is trained on: without their end, and without EOS."""
    found = []
    for account in comparison.facts.get("data") or []:
        cut = (account["reasons"].get("response truncated") or {}).get("rows", 0)
        if cut > MANY_CUT * account["kept"]:
            found.append(
                f"{fmt.percent(cut / account['kept'])} of the pairs of {account['file']} have a response that is cut, at --max-new-tokens "
                f"({comparison.settings['sampling']['max_new_tokens']}) or at the model's last position: what learns from pairs never "
                "sees its end. Where the model has room, a larger --max-new-tokens, in a new comparison, would let it."
            )
    return found


def same_scorer(comparison: ReportInput, view: Evaluations) -> list[str]:
    """The judge is the training reward."""
    if not comparison.facts.get("judge_is_reward"):
        return []
    return [
        f"Judge and training reward are the same, so {fmt.label(JUDGE)} shows how well each arm climbs what it was trained "
        "on, and cannot show a reward that is being exploited. Name another judge with --judge."
    ]


def unscored(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Responses that the training reward left unscored: the proxy is a mean over the others, in each row different ones."""
    ends = {arm: list(view.at_end(arm, UNSCORED).values()) for arm in view.arms}
    shares = {arm: sum(values) / len(values) for arm, values in ends.items() if values}
    shares["the base"] = view.base.get(UNSCORED, 0.0)
    without = sorted((who for who in shares if shares[who]), key=lambda who: -shares[who])
    if not without:
        return []
    told = fmt.listing([f"{fmt.percent(shares[who])} of {who}'s" for who in without])
    return [
        f"{told} responses had no training score and are not in {'its' if len(without) == 1 else 'their'} {fmt.label(PROXY)}: "
        "it is the mean over the others alone, so rows differ also by which responses are missing."
    ]


def other_objective(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Training that was after something else than the reward and KL that are reported."""
    return [f"{reason}." for reason in objectives.trained_otherwise(comparison)]


def labels(comparison: ReportInput, view: Evaluations) -> list[str]:
    """Arms whose β is not the coefficient of the objective that the others maximise, and why."""
    told = comparison.facts.get("arms") or {}
    by_reason: dict[str, list[str]] = {}
    for arm, reason in objectives.own_beta(comparison).items():
        by_reason.setdefault(reason, []).append(arm)
    return [
        f"{fmt.listing(arms)}: {objectives.why_own(comparison.facts, told[arms[0]], len(arms) > 1)}, so β is not the KL coefficient of "
        f"the objective there.{_compare(len(arms), len(view.arms) - len(arms))}"
        for arms in by_reason.values()
    ]


def _compare(these: int, others: int) -> str:
    """With what arms whose β is their own are to be compared at matched KL: the others, of none each other."""
    if these + others < 2:
        return ""
    whom = "them" if not others else f"with the other arm{'s' * (others > 1)}"
    return f" Compare {whom} at matched KL, as far as it can be read there."
