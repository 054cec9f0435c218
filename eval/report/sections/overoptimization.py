"""The section on over-optimization: proxy against judge, and Gao et al.'s fits of each seed's path."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from eval import format as fmt
from eval.frontier.overoptimization import NEARLY_ALL, Fit, Trend, came_back, fit
from eval.report.document import Block, Cell, Column, Heads, Picture, Row, Section, Table, Text, table
from eval.report.figures import axes
from eval.report.figures import kl as kl_figures
from eval.report.figures import outcomes as figures
from eval.report.figures.theme import Style
from eval.report.inputs import JUDGE, KL, PROXY
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.standings import MIN_KL
from eval.stats import mean_interval

if TYPE_CHECKING:
    from pandas import DataFrame

Look = dict[str, Style]
Fits = dict[str, dict[int, Fit]]
"""Arm → seed → fit; seeds whose path has too few points, hardly leaves the base or came back are left out."""
BACK = "came back: its KL fell again, so there is no curve in KL"
FEW, NEAR = "too few evaluations at distinct KL to fit", f"no evaluation at {MIN_KL} nats or more"
"""Why a finished run has no fit."""
TRENDS: dict[Trend, str] = {
    "rising": "with no peak up to the largest KL", "falling": "falling", "neither": "rising again, below the base",
}  # fmt: skip


def section(view: Evaluations, look: Look) -> Section:
    """The path in the plane of both rewards, then the judge's rise and fall with the distance to the base."""
    anchor, title = "over-optimization", "Over-optimization"
    if PROXY not in view.metrics:
        missing = Text(
            "The training reward was not measured on held-out prompts, so there is no such figure."
        )
        return Section(anchor, title, (missing,))
    caption = (
        "Training moves to the right, since it is the proxy that is trained on. While the path climbs, the judge agrees; where it "
        f"bends down, the proxy is over-optimized. {axes.SEED_LINES} The star is the base.{axes.others(look)}"
    )
    picture = Picture(
        "proxy-judge",
        figures.proxy_against_judge(view.paths, look, view.base),
        caption,
        "Judge reward against proxy reward along training",
    )
    return Section(anchor, title, (picture, *_fitted(view, look)))


def fits(paths: DataFrame, base: Mapping[str, float], metric: str) -> Fits:
    """R(d) = d·(a − b·log d), d = √KL, of each finished seed's path that went MIN_KL far and did not come back: nearer to
    the base no two policies differ by much, and what moves there is noise."""
    found: Fits = {}
    if KL not in paths.columns or metric not in paths.columns or metric not in base:
        return found
    for arm, seed, rows in _finished(paths):
        fitted = None if _why_not(rows) else fit(rows[KL].to_numpy(), rows[metric].to_numpy() - base[metric])
        if fitted is not None:
            found.setdefault(arm, {})[seed] = fitted
    return found


def _finished(paths: DataFrame) -> Iterator[tuple[str, int, DataFrame]]:
    """Arm, seed and evaluations of every finished run."""
    done = paths[paths["finished"]]
    for arm, seed in done[["arm", "seed"]].drop_duplicates().itertuples(index=False):
        yield str(arm), int(seed), done[(done["arm"] == arm) & (done["seed"] == seed)]


def _why_not(rows: DataFrame) -> str:
    """Why a run's path is not fitted, however many evaluations it has; empty where it may be."""
    if rows[KL].max() < MIN_KL:
        return NEAR
    return BACK if came_back(rows.sort_values("point")[KL]) else ""


def _fitted(view: Evaluations, look: Look) -> list[Block]:
    by_metric = {metric: found for metric in (JUDGE, PROXY) if (found := fits(view.paths, view.base, metric))}
    if JUDGE not in by_metric:
        return [Text(_unfitted(view))]
    caption = (
        "Gain over the base against the distance √KL, with the curve d·(a − b·log d), d = √KL, that Gao et al. (2023) found for "
        f"RL, fitted to the evaluations (small markers) of each seed whose KL did not fall again. A tick at the top is the KL where a seed's fitted judge "
        f"reward peaks, where it lies on its path. Curves that explain less than half of a seed's variation (R² below 0.5) are "
        f"not drawn.{axes.others(look)}"
    )
    picture = Picture(
        "over-optimization", kl_figures.fitted(view.paths, look, view.base, by_metric), caption,
        "Gain over the base against KL with fitted curves",
    )  # fmt: skip
    return [picture, _table(by_metric[JUDGE], view)]


def _unfitted(view: Evaluations) -> str:
    """Why there is no curve at all."""
    if KL not in view.metrics or not view.paths["finished"].any():
        return "No run with KL to the reference reached its end, so Gao et al.'s curve was not fitted."
    reasons = Counter(_why_not(rows) or FEW for _, _, rows in _finished(view.paths))
    back = " Where KL falls again, the judge is no function of KL." if BACK in reasons else ""
    return f"Gao et al.'s curve was not fitted to any run: {'; '.join(_counted(reasons))}.{back}"


def _table(found: Fits, view: Evaluations) -> Table:
    """Every arm with its fits, and how many of its seeds have none and why."""
    unfitted: dict[str, Counter[str]] = {arm: Counter() for arm in view.arms}
    for arm, seed, rows in _finished(view.paths):
        if seed not in found.get(arm, {}):
            unfitted[arm][_why_not(rows) or FEW] += 1
    decimals = view.judge_decimals
    rows_ = [
        _row(arm, list(found.get(arm, {}).values()), without, decimals) for arm, without in unfitted.items()
    ]
    heads: Heads = [
        "arm", Column("seeds", "fitted"), Column("a", "95% interval"), Column("b", "95% interval"), Column("R²", "lowest"),
        Column("KL where the judge peaks", "nats, by seed", numeric=False),
    ]  # fmt: skip
    caption = (
        "One fit of the judge's gain, d·(a − b·log d), per seed; a and b are means with Student's t intervals over seeds. A seed "
        "whose fitted peak is not on its path is counted by where the curve goes at its largest KL: “no peak up to the largest "
        "KL” (it rises, above the base), “falling”, or “rising again, below the base”. “Before the first evaluation”: the peak "
        "cannot be placed. “Came back”: its KL fell again and ended below "
        f"{NEARLY_ALL} of its largest, so the judge is no function of KL and nothing is fitted. “Poorly fitted”: R² below 0.5. "
        "“Without change”: the same judge reward throughout. Nothing is fitted to fewer than three distinct KL, nor where all "
        f"are below {MIN_KL} nats."
    )
    return table(heads, rows_, caption, "Where the judge peaks")


def _row(arm: str, own: list[Fit], without: Counter[str], decimals: int) -> Row:
    seeds = len(own) + without.total()
    columns = [mean_interval([each.a for each in own]), mean_interval([each.b for each in own])]
    r_squared = min((each.r_squared for each in own if not math.isnan(each.r_squared)), default=math.nan)
    return [
        Cell(arm, arm=arm), str(seeds) if len(own) == seeds else f"{len(own)} of {seeds}",
        *(Cell(*fmt.with_interval(estimate, decimals)) for estimate in columns),
        fmt.number(r_squared, 2), _told(own, without),
    ]  # fmt: skip


def _told(own: list[Fit], without: Counter[str]) -> str:
    """The peaks of the fits and, counted where there are other seeds, why seeds have none; of an arm whose seeds all have
    the same reason the reason alone."""
    if not own and not without:
        return "no finished run"
    if not own and len(without) == 1:
        return next(iter(without))
    return "; ".join([*_peaks(own), *_counted(without)])


def _counted(reasons: Counter[str]) -> list[str]:
    return [f"{count} {'came back' if why == BACK else f'with {why}'}" for why, count in reasons.items()]


def _peaks(own: list[Fit]) -> list[str]:
    flat = sum(math.isnan(each.r_squared) for each in own)
    weak = sum(not each.follows for each in own) - flat
    own = [each for each in own if each.follows]
    observed = sorted(each.peak_kl for each in own if each.peak == "observed")
    early = sum(each.peak == "before" for each in own)
    trends = Counter(each.trend for each in own if each.peak in ("beyond", "none"))
    parts = [", ".join(fmt.number(kl, 2) for kl in observed)] if observed else []
    parts += [f"{early} before the first evaluation"] if early else []
    parts += [f"{trends[trend]} {shown}" for trend, shown in TRENDS.items() if trends[trend]]
    parts += [f"{weak} poorly fitted"] if weak else []
    return [*parts, f"{flat} without change"] if flat else parts
