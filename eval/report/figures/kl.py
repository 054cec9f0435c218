"""Figures of reward against KL: the arms' paths below the frontier, and one curve an algorithm where there are many arms.

As in `figures`: frames in, a matplotlib Figure out; draw inside `theme.drawing()`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval import format as fmt
from eval.frontier.overoptimization import Fit
from eval.report.figures import axes, theme
from eval.report.figures.theme import Style
from eval.report.inputs import JUDGE, KL, PROXY
from eval.report.numbers.reachable import Reachable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

Look = Mapping[str, Style]
Base = Mapping[str, float]
Best = Mapping[str, Reachable]
Fits = Mapping[str, Mapping[int, Fit]]  # arm → seed → fit
_FRONTIER, _BEST_OF = "best possible policy", "best of N by the proxy"


def reward_against_kl(paths: DataFrame, look: Look, base: Base, best: Best) -> Figure:
    """Judge and, where there is one, proxy reward against KL: one row each, one column a panel of arms."""
    metrics = _metrics(paths)
    figure, panels = _panels(look, metrics)
    for panel in panels:
        axes.draw_paths(panel.ax, paths, KL, panel.metric, look, panel.arms)
        _finish(panel.ax, paths, panel.metric, base, best, panel.first)
    axes.legend(figure, look, "point", axes.any_failed(paths), _handles(best, metrics))
    return figure


def algorithms_against_kl(ends: DataFrame, look: Look, base: Base, best: Best) -> Figure:
    """Judge and proxy reward against KL at the arms' ends, an algorithm's arms joined in the order of their KL."""
    metrics = _metrics(ends)
    figure, table = axes.grid(1, len(metrics), (axes.WIDTH, 4.1))
    done = ends[ends["finished"]]
    first: dict[str, Style] = {}
    for style in look.values():
        first.setdefault(style.algorithm, style)
    for ax, metric in zip(table[0], metrics, strict=True):
        for algorithm, style in first.items():
            arms = [arm for arm, own in look.items() if own.algorithm == algorithm]
            own = done[done["arm"].isin(arms)].dropna(subset=[KL, metric])
            means = own.groupby("arm", sort=False)[[KL, metric]].mean().sort_values(KL)
            ax.plot(own[KL], own[metric], **axes.marker(style, 3.5, alpha=0.5), zorder=4)
            ax.plot(means[KL], means[metric], color=style.colour, linestyle=style.dash, zorder=5)
            ax.plot(means[KL], means[metric], **axes.marker(style, 7), zorder=6)
        _finish(ax, ends, metric, base, best, first=ax)
    axes.legend(figure, first, "point", further=_handles(best, metrics))
    return figure


def fitted(paths: DataFrame, look: Look, base: Base, fits: Mapping[str, Fits]) -> Figure:
    """Gain over the base against KL: every finished seed's evaluations and, where it has one, its fit; one row a metric."""
    figure, panels = _panels(look, list(fits))
    done = paths[paths["finished"]]
    for panel in panels:
        ax, found = panel.ax, fits[panel.metric]
        for arm in panel.arms:
            rows = done[done["arm"] == arm]
            gains = rows[panel.metric] - base[panel.metric]
            # Every path begins in the corner, where a clipped marker is a quarter of one.
            ax.plot(rows[KL], gains, **axes.marker(look[arm], 4, alpha=0.8), zorder=4, clip_on=False)
            for fit in (fit for fit in found.get(arm, {}).values() if fit.follows):
                _fit(ax, fit, look[arm], peak=panel.metric == JUDGE)
        axes.kl_axis(ax, fmt.titled(KL))
        _share_rows(ax, panel.first, f"gain in {fmt.label(panel.metric)}")
    axes.legend(figure, look)
    return figure


def _fit(ax: Axes, fit: Fit, style: Style, peak: bool) -> None:
    import numpy

    kl = numpy.linspace(fit.nearest**0.5, fit.furthest**0.5, 60) ** 2
    ax.plot(kl, fit.gain(kl), color=style.colour, linestyle=style.dash, linewidth=1, zorder=3)
    if peak and fit.peak == "observed":
        ax.axvline(fit.peak_kl, ymin=0.96, color=style.colour, linewidth=2.2)


@dataclass(frozen=True)
class _Panel:
    ax: Axes
    first: Axes
    """The leftmost of its row, which has the label."""
    metric: str
    arms: list[str]


def _panels(look: Look, metrics: Sequence[str]) -> tuple[Figure, list[_Panel]]:
    """Metrics side by side where all arms fit one panel; else a row a metric, a column a panel of arms."""
    groups = theme.panels(look)
    if len(groups) == 1:
        figure, [row] = axes.grid(1, len(metrics), (axes.WIDTH, 4.1))
        return figure, [_Panel(ax, ax, metric, groups[0]) for ax, metric in zip(row, metrics, strict=True)]
    figure, table = axes.grid(len(metrics), len(groups), (axes.WIDTH, 3.1 * len(metrics) + 0.6))
    return figure, [
        _Panel(ax, row[0], metric, arms)
        for row, metric in zip(table, metrics, strict=True)
        for ax, arms in zip(row, groups, strict=True)
    ]


def _metrics(rows: DataFrame) -> list[str]:
    return [metric for metric in (JUDGE, PROXY) if metric in rows.columns and rows[metric].notna().any()]


def _finish(ax: Axes, rows: DataFrame, metric: str, base: Base, best: Best, first: Axes) -> None:
    """Frontier, base and axes, the same in every panel of reward against KL."""
    ax.plot(base.get(KL, 0.0), base.get(metric, math.nan), linestyle="none", **axes.BASE_POINT)
    axes.kl_axis(ax, fmt.titled(KL))
    right = 1.15 * float(rows[KL].max(skipna=True) or 1.0)
    if metric in best:
        _frontier(ax, best[metric], right)
    ax.set_xlim(0, right)
    _share_rows(ax, first, fmt.titled(metric))


def _share_rows(ax: Axes, first: Axes, label: str) -> None:
    axes.plain_ticks(ax.yaxis)
    ax.set_ylabel(label if ax is first else "")
    if ax is not first:
        ax.sharey(first)


def _frontier(ax: Axes, best: Reachable, right: float) -> None:
    """The frontier, solid where it is sure and dashed where less so, its band, and best-of-N."""
    curve = best.curve
    for level, dash in (("solid", "-"), ("dashed", (0, (4, 2)))):
        # A dashed part begins where the solid one ends.
        drawn_B = curve.reach_B == level
        if level == "dashed" and drawn_B.any() and not drawn_B[0]:
            drawn_B[drawn_B.argmax() - 1] = True
        ax.plot(
            curve.kl_B[drawn_B],
            curve.reward_B[drawn_B],
            color=theme.INK,
            linewidth=1.4,
            linestyle=dash,
            zorder=3,
        )
    grid, low, high = best.band
    ax.fill_between(grid, low, high, color=theme.INK, alpha=0.12, linewidth=0, zorder=1)
    inside = [(kl, value) for kl, value in best.best_of.values() if kl <= right]
    ax.plot([kl for kl, _ in inside], [value for _, value in inside], **_BEST_OF_LOOK)


_BEST_OF_LOOK: dict[str, Any] = {
    "color": theme.MUTED, "linestyle": (0, (1, 1.5)), "linewidth": 1.1, "marker": "D", "markersize": 3.2,
    "markeredgecolor": "white", "markeredgewidth": 0.4, "zorder": 3,
}  # fmt: skip


def _handles(best: Best, metrics: Sequence[str]) -> dict[str, Any]:
    from matplotlib.lines import Line2D

    if not any(metric in best for metric in metrics):
        return {}
    found = {_FRONTIER: Line2D([], [], color=theme.INK, linewidth=1.4)}
    if any(best[metric].best_of for metric in metrics if metric in best):
        found[_BEST_OF] = Line2D([], [], **_BEST_OF_LOOK)
    return found
