"""What training logged, as small multiples: one figure an algorithm, one panel a metric that it has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from eval import format as fmt
from eval.report.figures import axes
from eval.report.figures.theme import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

BINS = 60  # points along an axis; more cannot be seen and would make the page heavy
_NOT_METRICS = frozenset(
    [
        "arm",
        "algorithm",
        "seed",
        "iteration",
        "updates",
        "completions",
        "tokens",
        "flops",
        "seconds",
        "fraction",
        "generated_tokens",
        "trained_tokens",
        "reward_calls",
    ]
)


def logged(events: DataFrame) -> list[str]:
    """Columns with at least one number, in the order in which they were logged."""
    from pandas.api.types import is_numeric_dtype

    numeric = [c for c in events.columns if c not in _NOT_METRICS and is_numeric_dtype(events[c])]
    return [column for column in numeric if _finite(events[column]).notna().any()]


def figure(events: DataFrame, look: Mapping[str, Style], metrics: list[str]) -> Figure:
    """Events of one algorithm's arms → thin line a seed, bold line their mean as far as half of them went, along the updates."""
    x = "updates" if events["updates"].notna().any() else "iteration"
    columns = min(3, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    drawing, table = axes.grid(rows, columns, (axes.WIDTH * max(columns, 2) / 3, 1.85 * rows + 0.7))
    cells = [ax for row in table for ax in row]
    for ax, metric in zip(cells, metrics, strict=False):
        _panel(ax, events, x, metric, look)
    for ax in cells[len(metrics) :]:
        ax.remove()
    for ax in cells[max(0, len(metrics) - columns) : len(metrics)]:
        ax.set_xlabel(x)
    if len(look) > 1:
        axes.legend(drawing, look)
    return drawing


def _panel(ax: Axes, events: DataFrame, x: str, metric: str, look: Mapping[str, Style]) -> None:
    for arm, style in look.items():
        binned = _binned(events[events["arm"] == arm], x, metric)
        for _, seed in binned.groupby("seed"):
            ax.plot(seed["x"], seed["y"], color=style.colour, linewidth=0.7, alpha=0.4)
        mean = _mean(binned)
        ax.plot(
            mean["x"],
            mean["y"],
            color=style.colour,
            linestyle=style.dash if len(look) > 1 else "-",
            linewidth=1.6,
        )
    ax.set_title(_title(metric))
    ax.margins(x=0.02)
    if _wants_log(events[metric]):
        ax.set_yscale("log")
    axes.plain_ticks(ax.yaxis)
    axes.plain_ticks(ax.xaxis)


def _mean(binned: DataFrame) -> DataFrame:
    """x, y by bin, as far as half of the seeds went: beyond, the mean would jump to whatever the last of them did."""
    bins = binned.groupby("bin")
    many = 2 * bins["seed"].nunique() >= binned["seed"].nunique()
    return bins[["x", "y"]].mean()[many]


def _binned(rows: DataFrame, x: str, metric: str) -> DataFrame:
    """seed, bin, x, y: means within each bin, but the maximum of a metric that is one, so that no spike is lost."""
    values = rows[["seed", x]].assign(y=_finite(rows[metric])).dropna()
    width = max(float(values[x].max()) / BINS, 1e-12) if len(values) else 1.0
    grouped = (
        values.assign(bin=(values[x] // width))
        .rename(columns={x: "x"})
        .groupby(["seed", "bin"], as_index=False)
    )
    return grouped.agg(x=("x", "mean"), y=("y", "max" if "max" in metric else "mean"))


def _finite(values: Series) -> Series:
    return values.astype(float).where(values.astype(float).abs() < math.inf)


def _wants_log(values: Series) -> bool:
    finite = _finite(values).dropna()
    return bool(len(finite) and finite.min() > 0 and finite.max() > 30 * finite.median())


def _title(metric: str) -> str:
    known = fmt.titled(metric)
    return fmt.shorten(known, 30)
