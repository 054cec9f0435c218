"""Axes, legends and lines that several figures share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval import format as fmt
from eval import stats
from eval.report.figures import theme, ticks
from eval.report.figures.theme import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from pandas import DataFrame

WIDTH = 9.2  # inches; the page shows figures at most this wide
AXIS_LABELS = {
    "updates": "updates",
    "completions": "completions",
    "tokens": "tokens",
    "flops": "training FLOPs",
    "seconds": "training time [s]",
}
SEED_LINES = (
    "Thin lines are single seeds, bold lines the mean of an arm's finished seeds at each evaluation point, along both axes: "
    "where one seed is far from the others, no run is there."
)


def grid(
    rows: int, columns: int, size: tuple[float, float], **sharing: Any
) -> tuple[Figure, list[list[Axes]]]:
    """An empty figure with rows × columns axes, outside pyplot's global state."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    spacing = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.04, hspace=0.04)
    figure = Figure(figsize=size, layout=spacing)
    return figure, figure.subplots(rows, columns, squeeze=False, **sharing).tolist()


def draw_paths(
    ax: Axes, paths: DataFrame, x: str, y: str, look: Mapping[str, Style], arms: Sequence[str]
) -> None:
    """Every seed of `arms` as a thin line, their means over finished seeds as bold ones, other arms' means in grey."""
    import seaborn

    drawn = paths.dropna(subset=[x, y])
    for arm in (arm for arm in look if arm not in arms):
        mean = mean_path(drawn[drawn["arm"] == arm], x, y)
        ax.plot(mean["x"], mean["y"], color=theme.FAINT, linewidth=1.2, zorder=1)
    seeds = drawn[drawn["arm"].isin(arms)]
    palette = {arm: look[arm].colour for arm in arms}
    seaborn.lineplot(
        data=seeds, x=x, y=y, hue="arm", hue_order=list(arms), palette=palette, units="seed", estimator=None,
        errorbar=None, sort=False, legend=False, linewidth=0.8, alpha=0.4, zorder=2, ax=ax,
    )  # fmt: skip
    for arm in arms:
        _draw_mean(ax, mean_path(seeds[seeds["arm"] == arm], x, y), look[arm])
        _draw_ends(ax, seeds[seeds["arm"] == arm], x, y, look[arm])


def mean_path(rows: DataFrame, x: str, y: str) -> DataFrame:
    """One arm's rows → per evaluation point the mean over finished seeds: x, y, low, high (95% t interval of y)."""
    import pandas

    found = []
    for _, at_point in rows[rows["finished"]].groupby("point", sort=True):
        estimate = stats.mean_interval(at_point[y].to_numpy())
        found.append((at_point[x].mean(), estimate.mean, estimate.low, estimate.high))
    return pandas.DataFrame(found, columns=["x", "y", "low", "high"])


def _draw_mean(ax: Axes, mean: DataFrame, style: Style) -> None:
    ax.plot(mean["x"], mean["y"], color=style.colour, linestyle=style.dash, linewidth=2, zorder=4)
    ax.plot(mean["x"][-1:], mean["y"][-1:], **marker(style, 8.5), zorder=6)


def _draw_ends(ax: Axes, rows: DataFrame, x: str, y: str, style: Style) -> None:
    last = rows.sort_values("point", kind="stable").groupby("seed").tail(1)
    done, failed = last[last["finished"]], last[~last["finished"]]
    ax.plot(done[x], done[y], **marker(style, 3.5, alpha=0.7), zorder=5)
    ax.plot(failed[x], failed[y], linestyle="none", marker="x", color=style.colour, markersize=6, zorder=5)


def marker(style: Style, size: float, alpha: float = 1.0) -> dict[str, Any]:
    """Keyword arguments of a point in an arm's look: filled, with a white rim."""
    return {
        "linestyle": "none",
        "marker": style.marker,
        "color": style.colour,
        "markersize": size,
        "markeredgecolor": "white",
        "markeredgewidth": 0.7 if size > 5 else 0.3,
        "alpha": alpha,
    }


def legend(
    figure: Figure,
    look: Mapping[str, Style],
    base: str = "",
    failed: bool = False,
    further: Mapping[str, Any] | None = None,
) -> None:
    """One legend below the panels: every arm, the base (as "line" or "point"), the mark of runs that did not finish, and
    `further` handles by label."""
    from matplotlib.lines import Line2D

    handles, labels = [], []
    for name, style in zip(theme.names(look), look.values(), strict=True):
        handles.append(Line2D([], [], **marker(style, 7) | {"linestyle": style.dash}))
        labels.append(name)
    if base:
        handles.append(base_handle(base))
        labels.append("base")
    if failed:
        handles.append(Line2D([], [], linestyle="none", marker="x", color=theme.MUTED, markersize=6))
        labels.append("run that did not finish, last evaluation")
    for label, handle in (further or {}).items():
        handles.append(handle)
        labels.append(label)
    longest = max(len(label) for label in labels)
    columns = max(1, min(len(labels), 125 // (longest + 9)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def base_handle(kind: str) -> Any:
    from matplotlib.lines import Line2D

    if kind == "line":
        return Line2D([], [], color=theme.BASE_COLOUR, linestyle=(0, (1, 2)), linewidth=1.4)
    return Line2D([], [], linestyle="none", **BASE_POINT)


def base_line(ax: Axes, value: float | None, vertical: bool = False) -> None:
    """The untouched model's value as a dotted grey line; nothing where it is not known. Of a vertical one that lies beyond
    the axis, the value in words above it."""
    if value is None or not math.isfinite(value):
        return
    low, high = ax.get_xlim()
    if vertical and not low <= value <= high:
        place, side, shown = (0, "left", "← base {}") if value < low else (1, "right", "base {} →")
        ax.text(
            place, 1.02, shown.format(fmt.compact(value)), transform=ax.transAxes, ha=side, va="bottom", fontsize=8,
            color=theme.BASE_COLOUR,
        )  # fmt: skip
        return
    draw = ax.axvline if vertical else ax.axhline
    draw(value, color=theme.BASE_COLOUR, linestyle=(0, (1, 2)), linewidth=1.4, zorder=2)


BASE_POINT: dict[str, Any] = {
    "marker": "*", "color": theme.BASE_COLOUR, "markersize": 12, "markeredgecolor": "white", "zorder": 7,
    "clip_on": False,
}  # fmt: skip


def spending_axis(ax: Axes, kind: str, ends: Iterable[float]) -> None:
    """Label and scale an axis of `kind`; logarithmic where some arms spend over 30 times what others do."""
    spent = [value for value in ends if math.isfinite(value) and value > 0]
    if spent and max(spent) > 30 * min(spent):
        ax.set_xscale("log")
        ax.set_xlabel(f"{AXIS_LABELS[kind]}, log scale")
        plain_ticks(ax.xaxis)
        return
    largest = max(spent, default=1.0)
    exponent = math.floor(math.log10(largest)) if kind in ("flops", "tokens") and largest >= 1e6 else 0
    unit = f" [{fmt.power(exponent)}]" if exponent else ""
    ax.set_xlabel(f"{AXIS_LABELS[kind]}{unit}")
    plain_ticks(ax.xaxis, 10.0**exponent)


def plain_ticks(axis: Axis, scale: float = 1.0) -> None:
    """Tick labels as 0.5, 200, 1.2k, 3M, 10¹², in multiples of `scale`."""
    from matplotlib.ticker import Formatter, NullFormatter

    class Plain(Formatter):
        def __call__(self, value: float, pos: int | None = None) -> str:
            return fmt.compact(round(value / scale, 10))

        def format_ticks(self, values: Sequence[float]) -> list[str]:
            return ticks.labels([round(value / scale, 10) for value in values])

    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(NullFormatter())


def kl_axis(ax: Axes, label: str) -> None:
    """√ scale: reward moves about linearly in √KL (Gao et al. 2023), and early training is not squeezed."""
    import numpy

    ax.set_xscale("function", functions=(lambda x: numpy.sqrt(numpy.maximum(x, 0)), numpy.square))
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(ticks.root_locator(ax))
    ax.set_xlabel(f"{label}, √ scale")
    plain_ticks(ax.xaxis)


def any_failed(paths: DataFrame) -> bool:
    return not bool(paths["finished"].all())


def others(look: Mapping[str, Style]) -> str:
    """What a caption adds where the arms do not fit one panel."""
    if len(theme.panels(look)) == 1:
        return ""
    return " The arms are spread over several panels; the means of those in other panels are drawn in grey."
