"""Which arms maximise one objective, E[r] − β·KL of the reported reward and KL, which do not, and why; and so, which
comparison of the arms comes first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from eval import format as fmt
from eval.report.inputs import PROXY, ReportInput
from eval.report.numbers.standings import Standing, Standings

MANY_ARMS = 5  # a sentence names no more of them one by one


def trained_otherwise(comparison: ReportInput) -> list[str]:
    """What training maximised that the reported reward and KL are not: clauses, none where they are the same."""
    asked = comparison.settings.get("sampling") or {}
    penalty, temperature = (
        float(asked.get(name, default))
        for name, default in (("missing_eos_penalty", 0.0), ("temperature", 1.0))
    )
    found = []
    if penalty:
        found.append(
            f"Training subtracted {fmt.compact(penalty)} from the reward of every response that hit the length limit; "
            f"{fmt.label(PROXY)} here, its frontier and what arms left on the table exclude that penalty"
        )
    if temperature != 1:
        found.append(
            f"Training sampled, and measured KL, at temperature {fmt.compact(temperature)}; rewards and KL here, and the "
            "frontier, are of the policies at temperature 1"
        )
    if prefix := int(asked.get("greedy_prefix", 0)):
        tokens, were = ("first token", "was") if prefix == 1 else (f"first {prefix} tokens", "were")
        found.append(
            f"In training the {tokens} of every response {were} greedy and carried neither loss nor KL; rewards and KL here, "
            "and the frontier, are of responses that are sampled whole"
        )
    return found


def own_beta(comparison: ReportInput) -> dict[str, str]:
    """Arms whose β is not the objective's → why: options that docs/algorithms.md marks *changes the objective*, and of
    its table of DPO's β the rows but the first."""
    found = {}
    for arm, about in (comparison.facts.get("arms") or {}).items():
        if reason := why_own(comparison.facts, about):
            found[arm] = reason
    return found


def unlike_beta(comparison: ReportInput, compared: Collection[str]) -> str:
    """Why the ends of these arms are not on equal terms, as a clause, which points at the caveat that says whose β is its
    own and why; empty where they maximise one objective, their β its coefficient. The β are those that the runs had: where they were tuned, the chosen ones."""
    arms = {arm: about for arm, about in (comparison.facts.get("arms") or {}).items() if arm in compared}
    if len(arms) < 2:
        return ""
    own = [arm for arm in own_beta(comparison) if arm in arms]
    if len(own) == len(arms):
        return "no arm's β is the coefficient of a common objective"
    betas = {
        a: float((about.get("settings") or {}).get("beta", 0.0)) for a, about in arms.items() if a not in own
    }
    if len(set(betas.values())) == 1:
        whose = "of the other arm" if len(betas) == 1 else "that the others share"
        return f"{_beta_of(own)} is not the KL coefficient {whose} (see below)" if own else ""
    if not own:
        return f"the arms' β differ ({_shown(betas)}), so they do not maximise one objective"
    return (
        f"{_beta_of(own)} is not the KL coefficient of an objective (see below) and those of the others differ "
        f"({_shown(betas)})"
    )


def leading(comparison: ReportInput, found: Standings) -> Standing:
    """The comparison that the verdict begins with: own ends; where the arms' β are not that of one objective, matched
    KL, if every two arms can be read there."""
    return found.kl if readable(found) and unlike_beta(comparison, found.end.ranking) else found.end


def readable(found: Standings) -> bool:
    """Whether every two arms can be compared at matched KL."""
    return not found.kl.unread and set(found.kl.ranking) == set(found.end.ranking)


def _beta_of(arms: Sequence[str]) -> str:
    return f"{arms[0]}'s β" if len(arms) == 1 else f"the β of {fmt.listing(arms)}"


def _shown(betas: Mapping[str, float]) -> str:
    """Each arm's β, the smallest first; of many arms the range."""
    ordered = sorted(betas, key=betas.__getitem__)
    if len(ordered) > MANY_ARMS:
        return f"{fmt.compact(betas[ordered[0]])} to {fmt.compact(betas[ordered[-1]])}"
    return fmt.listing([f"{arm} {fmt.compact(betas[arm])}" for arm in ordered])


def why_own(facts: Any, about: Any, several: bool = False) -> str:
    """Why the β of an arm, or of several alike, is not the objective's."""
    settings = about.get("settings") or {}
    it, its, s = ("they", "their", "") if several else ("it", "its", "s")
    if about.get("source") == "pairs" and not facts.get("beta_is_objective"):
        return f"the labels of {its} pairs {facts.get('labels', 'are not known to be draws from the training reward')}"
    if settings.get("on_policy"):
        return f"{it} learn{s} from the best and the worst of each group, not from labels drawn by the reward"
    if settings.get("loss_type", "sigmoid") != "sigmoid" or settings.get("reference_free"):
        return f"{its} loss has an optimum of its own"
    if settings.get("label_smoothing"):
        return f"{its} loss is smoothed"
    if settings.get("kl_control", "fixed") != "fixed":
        return f"{its} β is steered to a KL"
    if settings.get("gamma", 1.0) != 1.0:
        return f"{it} discount{s} later rewards"
    if settings.get("whiten_rewards") or settings.get("scale_by_group_std"):
        return f"{it} divide{s} rewards by their spread"
    # A constant is a factor of the loss; the mean over tokens is PPO's own, as everywhere.
    by_length = (
        ("sequence_mean", "token_mean") if about.get("algorithm") == "reinforce" else ("sequence_mean",)
    )
    if settings.get("aggregation") in by_length:
        return f"{it} weigh{s} responses by their length"
    return ""
