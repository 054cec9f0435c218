"""What was reached of what is possible, in sentences: each arm's share of the gain, and what needs no training at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from eval import format as fmt
from eval.report.inputs import JUDGE, PROXY
from eval.report.numbers.reachable import Reachable

Best = Mapping[str, Reachable]
BELOW = "below the base"
MANY_ARMS = 6  # a sentence names no more of them one by one


def sentences(best: Best) -> list[str]:
    """What the frontier adds to the verdict."""
    return [said for said in (shares(best), best_of_n(best)) if said]


def share_text(best: Reachable, arm: str, digits: int = 0) -> str:
    """The share of the possible gain as a reader wants it: beyond the solid part a bound, of a loss no share."""
    share, point = best.share(arm), best.arms[arm]
    if math.isnan(share):
        return fmt.MISSING
    if point.reward < best.base:
        return BELOW
    return f"{'' if point.inside else 'at least '}{100 * share:.{digits}f}%"


def shares(best: Best) -> str:
    """How much of the gain that is possible at its KL each arm has, in every reward that has a frontier of its own; empty
    where no arm left the base."""
    found = [best[JUDGE]] if _same(best) else list(best.values())
    arms = found[0].arms if found else {}
    known = [arm for arm in arms if any(math.isfinite(each.share(arm)) for each in found)]
    if not known:
        return ""
    shown = [" and ".join(_in_words(each, arm) for each in found) for arm in known]
    if len(known) > 1:
        shown = [f"{arm} {share}" for arm, share in zip(known, shown, strict=True)]
    more = [f"{len(shown) - MANY_ARMS} more"] if len(shown) > MANY_ARMS + 1 else []
    shown = [*shown[: MANY_ARMS if more else None], *more]
    rewards = " and ".join(f"in {fmt.label(each.metric)}" for each in found)
    prompts = fmt.counted(arms[known[0]].left.n, "prompt")
    so = "this does not rank the arms" if len(known) > 1 else "others would give another share"
    return (
        f"At its own KL {_policy(found[0], known)} has this share of the gain that is possible, {rewards}: {', '.join(shown)}. "
        f"One seed on {prompts}: {so}."
    )


def best_of_n(best: Best) -> str:
    """What choosing among N responses of the base gets of the judge, beside every arm's policy: the smallest N that reaches
    the best of them, else the N with the most. Empty where the proxy cannot choose."""
    judged = best.get(JUDGE)
    if judged is None or not judged.best_of or not judged.arms:
        return ""
    by = "the judge itself" if _same(best) else "the proxy"
    values = {n: value for n, (_, value) in judged.best_of.items()}
    decimals = fmt.reward_decimals([judged.base, *(point.reward for point in judged.arms.values())])
    label, most = fmt.label(JUDGE), max(values, key=values.__getitem__)
    if values[most] <= judged.base:
        return (
            f"Without training, the best of N responses of the base, chosen by {by}, has no more {label} than the base itself "
            f"({fmt.number(judged.base, decimals)}), for any N up to {max(values)}."
        )
    target = max(point.reward for point in judged.arms.values())
    n = next((n for n in sorted(values) if values[n] >= target), most)
    value = fmt.number(values[n], decimals)
    what = (
        f"the best of {n} responses of the base, chosen by {by}, has {label} {value}"
        if values[n] >= target
        else f"the best of N responses of the base, chosen by {by}, has at most {label} {value} (N = {n}, of up to {max(values)})"
    )
    return f"Without training, {what}, at {n} times the sampling: {_beside(judged, n, decimals)}."


def which(best: Reachable, arms: Iterable[str]) -> str:
    """ "seed 0", or each arm's own where they differ."""
    seeds = {arm: best.arms[arm].seed for arm in arms}
    if len(set(seeds.values())) == 1:
        return f"seed {next(iter(seeds.values()))}"
    return fmt.listing([f"{arm} seed {seed}" for arm, seed in seeds.items()], 14)


def _same(best: Best) -> bool:
    """Whether judge and proxy are one reward."""
    if JUDGE not in best or PROXY not in best:
        return False
    judged, proxied = (
        (each.base, *(point.reward for point in each.arms.values())) for each in (best[JUDGE], best[PROXY])
    )
    return judged == proxied


def _in_words(best: Reachable, arm: str) -> str:
    """As `share_text`, in the midst of a sentence about shares."""
    text = share_text(best, arm)
    return "none" if text == BELOW else text


def _policy(best: Reachable, arms: list[str]) -> str:
    """ "the policy of seed 0 of each arm"; of seeds that differ, whose is which."""
    whose = arms[0] if len(arms) == 1 else "each arm"
    if len({best.arms[arm].seed for arm in arms}) > 1:
        return f"one policy of {whose} ({which(best, arms)})"
    return f"the policy of {which(best, arms)} of {whose}"


def _beside(judged: Reachable, n: int, decimals: int) -> str:
    """Best of `n` against every arm's policy, the highest first."""
    ordered = sorted(judged.arms, key=lambda arm: -judged.arms[arm].reward)
    over = judged.over_arms[n]
    groups = {
        "less than": [arm for arm in ordered if over[arm].excludes_zero and over[arm].mean < 0],
        "not told apart from": [arm for arm in ordered if not over[arm].excludes_zero],
        "more than": [arm for arm in ordered if over[arm].excludes_zero and over[arm].mean > 0],
    }
    told = [
        f"{how} {fmt.listing([f'{arm} ({fmt.number(judged.arms[arm].reward, decimals)})' for arm in arms])}"
        for how, arms in groups.items()
        if arms
    ]
    seeds = {point.seed for point in judged.arms.values()}
    policy = f"its policy of seed {seeds.pop()}" if len(seeds) == 1 else "one policy"
    return f"{', '.join(told)}, {'each by ' if len(ordered) > 1 else 'by '}{policy}"
