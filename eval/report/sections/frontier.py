"""The section that holds every arm against the best possible policy at the same KL."""

from __future__ import annotations

import math

from eval import format as fmt
from eval.frontier.estimate import total_probability
from eval.report import commands
from eval.report.caveats.conditions import evaluated_prompts
from eval.report.document import Block, Cell, Column, Heads, Picture, Row, Section, Table, Text, table
from eval.report.figures import axes, theme
from eval.report.figures import kl as kl_figures
from eval.report.figures.theme import Style
from eval.report.inputs import BASE, JUDGE, KL, PROXY, ReportInput
from eval.report.numbers import tables
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.reachable import ArmPoint, Reachable, is_plain, objective_beta, unscored
from eval.report.sections import reached
from eval.report.sections.reached import Best

ANCHOR = "frontier"
MANY_ARMS = 6  # the second of two long tables is folded


def section(comparison: ReportInput, view: Evaluations, look: dict[str, Style], best: Best) -> Section:
    """Figure, a table a reward, and how to read them; without samples for it, the arms' paths alone."""
    if KL not in view.metrics:
        missing = Text("KL to the reference was not measured, so there is no such figure.")
        return Section(ANCHOR, "Reward against KL", (missing,))
    blocks: list[Block] = [*_pictures(view, look, best)]
    if best:
        blocks += [_table(comparison, reachable) for reachable in best.values()]
        if PROXY not in best:
            blocks.append(Text(_judge_alone(comparison), label=f"No frontier of the {fmt.label(PROXY)}"))
        if untrained := reached.best_of_n(best):
            blocks.append(Text(f"{untrained} {_HOW_UNTRAINED}", label="Best of N"))
        blocks.append(Text(_how(comparison)))
        return Section(ANCHOR, "How close to the best possible", tuple(blocks))
    return Section(ANCHOR, "Reward against KL", (*blocks, Text(_absent(comparison), label="No frontier")))


def caveats(comparison: ReportInput, view: Evaluations, best: Best) -> list[str]:
    """Samples of an earlier session, arms beyond the frontier's valid range, and what cannot be: arms above it,
    probabilities that do not add up."""
    found = [*_not_sampled(view, best), *_earlier_samples(comparison, best), *_unlikely_samples(comparison)]
    for metric, reachable in best.items():
        beyond = [arm for arm, point in reachable.arms.items() if not point.inside]
        impossible = [arm for arm, point in reachable.arms.items() if point.impossible]
        if beyond and math.isfinite(reachable.furthest):
            found.append(
                f"For {fmt.label(metric)} the frontier is known up to {fmt.compact(reachable.furthest)} nats; "
                f"{fmt.listing(beyond)} went further, so what was left on the table there is an upper bound."
            )
        elif beyond:
            found.append(
                f"For {fmt.label(metric)} the answers are too few to know the frontier at any KL: draw more with --frontier.samples."
            )
        if impossible:
            found.append(
                f"{fmt.listing(impossible)} lies above the frontier in {fmt.label(metric)}, which no policy can: "
                "distrust the KL or the reward of these runs, and please report it."
            )
    return found


def _not_sampled(view: Evaluations, best: Best) -> list[str]:
    """Finished arms of which no samples were drawn, as when drawing them failed."""
    drawn = next(iter(best.values())).arms if best else {}
    without = [arm for arm in tables.ranking(view) if arm not in drawn]
    return [f"The frontier was drawn without {fmt.listing(without)}."] if drawn and without else []


def _earlier_samples(comparison: ReportInput, best: Best) -> list[str]:
    reason = _failure(comparison)
    if not best or not reason:
        return []
    return [f"The frontier is of the policies of an earlier session, as drawing it anew failed: {reason}"]


def _unlikely_samples(comparison: ReportInput) -> list[str]:
    pool = comparison.pool
    if pool is None or not is_plain(comparison):
        return []
    totals = zip(pool.samplers, total_probability(pool.logps_KPM, pool.counts), strict=True)
    wrong = [name for name, total in totals if total.has_interval and not total.low <= 1 <= total.high]
    if not wrong:
        return []
    return [
        f"The responses of {fmt.listing(wrong)} were not drawn from the probabilities that they are scored with, so neither "
        "KL nor frontier can be relied on: please report it."
    ]


def _pictures(view: Evaluations, look: dict[str, Style], best: Best) -> list[Picture]:
    several = len(theme.panels(look)) > 1
    sampled = any(reachable.best_of for reachable in best.values())
    diamonds = ", diamonds are the best of N = 2, 4, … responses of the base chosen by the proxy"
    frontier = (
        " The black line is the best that any policy could reach at each KL (dashed where it is less sure; the band is the 95% "
        f"interval over prompts){diamonds if sampled else ''}. Line{' and diamonds' if sampled else ''} come{'' if sampled else 's'} from samples "
        "drawn for the frontier, star and paths from the evaluation's, so near the base they differ by noise."
        if best
        else ""
    )
    paths = Picture(
        "reward-kl",
        kl_figures.reward_against_kl(view.paths, look, view.base, best),
        f"Up and to the left is better: more reward for less distance from the base (star). {axes.SEED_LINES} A large marker is "
        f"the arm's end. Where proxy rises while judge falls, the proxy is being exploited.{'' if several else frontier}",
        "Judge and proxy reward against KL along training",
    )
    if not several:
        return [paths]
    overview = Picture(
        "frontier",
        kl_figures.algorithms_against_kl(view.ends, look, view.base, best),
        f"One curve an algorithm: the mean ends of its arms, joined in the order of their KL; small markers are seeds.{frontier}",
        "Judge and proxy reward against KL at the arms' ends",
    )
    return [overview, paths]


def _table(comparison: ReportInput, best: Reachable) -> Table:
    beta = objective_beta(comparison)
    heads: Heads = [
        "arm", Column("KL", "nats"), Column("reward"), Column("left on the table", "95% interval"),
        Column("share of possible gain"),
    ]  # fmt: skip
    if beta is not None:
        heads += [Column(f"objective at β = {beta:g}"), Column(f"regret at β = {beta:g}", "95% interval")]
    decimals = fmt.reward_decimals([best.base, *(point.reward for point in best.arms.values())])
    base: Row = [Cell(BASE, arm=BASE), fmt.number(0, 2), fmt.number(best.base, decimals)]
    rows: list[Row] = [[*base, *[fmt.MISSING] * (len(heads) - len(base))]]
    for arm, point in best.arms.items():
        rows.append([
            Cell(arm, arm=arm), fmt.number(point.kl, 2), fmt.number(point.reward, decimals), _left(point, decimals),
            reached.share_text(best, arm), *_at_beta(point, beta, decimals),
        ])  # fmt: skip
    prompts = best.curve.kl_BP.shape[1]
    where = "1 test prompt" if prompts == 1 else f"each of {prompts} test prompts"
    caption = f"One policy per arm ({reached.which(best, best.arms)}), many responses to {where}."
    heading = f"Against the frontier of {fmt.label(best.metric)}"
    many = len(best.arms) > MANY_ARMS and best.metric == JUDGE
    return table(heads, rows, caption, heading, "The same for the judge" if many else "")


_HOW_UNTRAINED = (
    "All subsets of N of the base's samples count alike; an arm is told apart where the 95% interval of the difference over these "
    "prompts leaves out 0."
)


def _left(point: ArmPoint, decimals: int) -> Cell:
    """What it left on the table: of an arm beyond the solid part a bound."""
    shown, interval = fmt.with_interval(point.left, decimals)
    return Cell(shown if point.inside or math.isnan(point.left.mean) else f"at most {shown}", interval)


def _at_beta(point: ArmPoint, beta: float | None, decimals: int) -> list[Cell]:
    if beta is None:
        return []
    regret = Cell(*fmt.with_interval(point.regret, decimals))
    return [Cell(fmt.number(point.objective, decimals)), regret]


def _how(comparison: ReportInput) -> str:
    pool = comparison.pool
    assert pool is not None
    drawn = fmt.listing(
        [f"{name} {count}" for name, count in zip(pool.samplers, pool.counts, strict=True)], 14
    )
    objective = (
        "Arms share no β of one objective, so objective and regret are not shown; --objective-beta declares one."
        if objective_beta(comparison) is None
        else "The objective is E[r] − β·KL, its regret the shortfall from the best possible policy's objective, equal to β·KL to "
        "that policy."
    )
    text = (
        "“Left on the table” is the frontier's reward at the arm's KL minus the arm's own, its interval Student's t over "
        f"prompts. {objective} "
        "The frontier is that of π* ∝ π_ref·e^(r/β) over all β, estimated by importance sampling from the answers of all policies "
        f"together (per prompt: {drawn}). It is solid where the effective sample size is at least 50 for 90% of the prompts, "
        "dashed where it is at least 10. The base's reward is estimated from the same answers; elsewhere in the "
        "report it is the mean over the evaluation's responses, so the two differ."
    )
    evaluated = evaluated_prompts(comparison)
    if evaluated > pool.logps_KPM.shape[1]:
        text += f" The paths are on all {evaluated} test prompts, the frontier on {pool.logps_KPM.shape[1]} of them."
    return text


def _absent(comparison: ReportInput) -> str:
    if not is_plain(comparison):
        return (
            "Frontier, objective and regret are defined for samples of the policies themselves, and here what is judged was "
            "decoded otherwise (eval decoding, temperature, top-p, top-k or greedy prefix), while KL is of plain samples; so "
            "none of them is shown."
        )
    unknown = "how far the arms are from the best possible policy is not known"
    if (comparison.settings.get("frontier") or {}).get("samples") == 0:
        return f"It was switched off (frontier samples 0), so {unknown}."
    if reason := _failure(comparison):
        return f"Drawing the samples for it failed, so {unknown}: {reason} To try again: {commands.resume(comparison)}"
    return f"No samples were drawn for it, so {unknown}."


def _failure(comparison: ReportInput) -> str:
    """Why the last session drew no samples, as a sentence; empty where nothing failed."""
    reason = str(comparison.environment.get("no_frontier") or "")
    return reason if not reason or reason.endswith((".", "…", "...")) else f"{reason}."


def _judge_alone(comparison: ReportInput) -> str:
    return (
        f"The training reward left {fmt.percent(unscored(comparison))} of the samples for the frontier unscored. The best possible "
        "policy is defined for a reward that every response has; over the scored responses alone it would be that of another "
        "base, at a KL to that one. So frontier, objective and regret are shown for the judge, which scores every response; "
        "best of N, which the proxy chooses, is not shown."
    )
