"""The figures of docs/findings.md, in the report's colours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.findings.measured import JUDGE, KL, PROXY, base, by_seed, ends, fitted, paths
from benchmarks.findings.tables import BETAS, events, passed
from eval.report.figures import axes, theme
from eval.stats import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame


def save(figure_of: Callable[[Path], Figure], reports: Path, file: Path) -> None:
    """Draws a finding's figure and writes it as PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with theme.drawing():
        figure_of(reports).savefig(file, dpi=100, metadata={"Software": None}, pil_kwargs={"optimize": True})


def ppo_whitening(reports: Path) -> Figure:
    """Every seed of PPO's settings, the mean and its interval beside them."""
    rows = ends(paths(reports, ["ppo", "ppo-small-batches"]))
    arms = ["tuned", "undertuned", "unwhitened", "small", "small-unwhitened"]
    look = theme.styles(dict.fromkeys(arms, "ppo"))
    figure, [[ax]] = axes.grid(1, 1, (7.0, 2.6))
    for row, arm in enumerate(arms):
        judge = by_seed(rows, arm)
        style, estimate = look[arm], mean_interval(judge)
        ax.plot(judge, [row] * len(judge), style.marker, color=style.colour, alpha=0.6, linestyle="none")
        ax.errorbar(
            estimate.mean, row + 0.22, xerr=estimate.half_width, fmt="|", color=theme.INK, capsize=3, linewidth=1
        )  # fmt: skip
    ax.axvline(base(reports, "ppo")[JUDGE], color=theme.BASE_COLOUR, linestyle=":", label="base")
    ax.set_yticks(range(len(arms)), arms)
    ax.set_ylim(len(arms) - 0.5, -0.5)
    ax.set_xlabel("judge reward at the end; one mark a seed, bar: mean and 95% interval")
    ax.legend(loc="lower left")
    return figure


def dpo_epochs(reports: Path) -> Figure:
    """Left: the judge by epoch. Right: log π of the chosen responses by epoch."""
    rows = paths(reports, ["dpo"])
    arms = list(dict.fromkeys(rows["arm"]))
    rows["epoch"] = passed(rows)
    log = events(reports, "dpo")
    log["epoch"] = np.ceil(6 * log.groupby(["arm", "seed"])["updates"].rank(pct=True)) / 2 - 0.25
    figure, [[judge, logps]] = axes.grid(1, 2, (axes.WIDTH, 3.0))
    _curves(judge, rows, arms, JUDGE)
    judge.axhline(base(reports, "dpo")[JUDGE], color=theme.BASE_COLOUR, linestyle=":", linewidth=1)
    _curves(
        logps,
        log.groupby(["arm", "seed", "epoch"])[["chosen_logps"]].mean().reset_index(),
        arms,
        "chosen_logps",
    )
    judge.set_ylabel("judge reward")
    logps.set_ylabel("log π of chosen [nats], by half epochs")
    for ax in (judge, logps):
        ax.set_xlabel("epochs")
    judge.legend()
    return figure


def _curves(ax: Axes, rows: DataFrame, arms: list[str], metric: str) -> None:
    look = theme.styles(dict.fromkeys(arms, "dpo"))
    for arm in arms:
        curves_SK = rows[rows["arm"] == arm].pivot_table(index="seed", columns="epoch", values=metric)
        style, estimates = look[arm], [mean_interval(curves_SK[epoch]) for epoch in curves_SK]
        ax.plot(
            curves_SK.columns, [one.mean for one in estimates], color=style.colour, linestyle=style.dash,
            marker=style.marker, markersize=3.5, label=arm,
        )  # fmt: skip
        ax.fill_between(
            curves_SK.columns, [one.low for one in estimates], [one.high for one in estimates],
            color=style.colour, alpha=0.1, linewidth=0,
        )  # fmt: skip


def over_optimization(reports: Path) -> Figure:
    """Gains over the base against d = √KL: points of every seed, and the curve fitted to each."""
    rows, start = paths(reports, ["over-optimization"]), base(reports, "over-optimization")
    look = theme.styles({"gold": "reinforce", "proxy": "ppo"})
    figure, table = axes.grid(1, 2, (axes.WIDTH, 3.0))
    for ax, name, metric in zip(table[0], ("gold", "proxy"), (JUDGE, PROXY), strict=True):
        for seed, run in rows[rows["point"] > 0].groupby("seed"):
            gain, style = run[metric] - start[metric], look[name]
            label = "one seed's evaluations" if seed == 0 else None
            ax.plot(
                np.sqrt(run[KL]), gain, style.marker, color=style.colour, alpha=0.5, markersize=4, linestyle="none",
                label=label,
            )  # fmt: skip
            d_K = np.linspace(0.01, float(np.sqrt(run[KL].max())), 200)
            ax.plot(
                d_K, fitted(run, start, metric).gain(d_K**2), color=theme.INK, linewidth=0.8, alpha=0.6,
                label="d(a − b·log d), fitted to each seed" if seed == 0 else None,
            )  # fmt: skip
        ax.axhline(0, color=theme.BASE_COLOUR, linestyle=":", linewidth=1)
        ax.set_xlabel("d = √KL [√nats]")
        ax.set_ylabel(f"{name} − {name} of the base")
        ax.legend()
    return figure


def best_betas(reports: Path) -> Figure:
    """Judge against β: every seed, and one line of means an algorithm."""
    rows = ends(paths(reports, BETAS))
    rows = rows[~rows["arm"].isin(["undertuned", "unwhitened"])]
    figure, [[ax]] = axes.grid(1, 1, (6.0, 3.0))
    look = theme.styles({name: name for name in ("reinforce", "ppo", "dpo")})
    for name, style in look.items():
        own = rows[rows["algorithm"] == name]
        means = own.groupby("beta")[JUDGE].mean()
        ax.plot(
            own["beta"],
            own[JUDGE],
            style.marker,
            color=style.colour,
            alpha=0.4,
            markersize=4,
            linestyle="none",
        )
        ax.plot(means.index, means, color=style.colour, linestyle=style.dash, marker=style.marker, label=name)
    ax.axhline(base(reports, "dpo")[JUDGE], color=theme.BASE_COLOUR, linestyle=":", linewidth=1, label="base")
    ax.set_xscale("log")
    ax.set_xticks([0.03, 0.1, 0.3, 1.0], ["0.03", "0.1", "0.3", "1"])
    ax.minorticks_off()
    ax.set_xlabel("β")
    ax.set_ylabel("judge reward at the end")
    ax.legend(loc="lower right")
    return figure
