"""One function a finding: a folder of reports → its tables as Markdown."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.findings.measured import (
    JUDGE,
    KL,
    PROXY,
    base,
    by_seed,
    differences,
    ends,
    fitted,
    folder,
    leave_one_out_gap,
    paths,
    signed,
    summary,
    table,
    text,
)
from eval.stats import mean_interval, paired_difference
from eval.store import Store

if TYPE_CHECKING:
    from pandas import DataFrame, Series

METRICS = {JUDGE: "judge", PROXY: "proxy", KL: "KL [nats]", "objective": "proxy − β·KL"}
BASELINES = ["leave-one-out-4", "leave-one-out-2", "moving-average"]
BETAS = ["betas-reinforce", "betas-ppo", "leave-one-out-4", "ppo", "dpo"]


def ppo_seeds(reports: Path) -> str:
    """How far seeds lie apart, tuned and undertuned."""
    from scipy.stats import levene

    rows = ends(paths(reports, ["ppo"]))
    arms = ["tuned", "undertuned"]
    lines = []
    for arm in arms:
        judge = by_seed(rows, arm)
        low, high = deviation_interval(judge)
        lines.append(
            [
                arm,
                " ".join(f"{value:.3f}" for value in judge),
                text(mean_interval(judge)),
                f"{judge.std():.3f} [{low:.3f}, {high:.3f}]",
                text(mean_interval(by_seed(rows, arm, KL)), 2),
            ]
        )
    head = ["arm", "judge by seed", "mean", "standard deviation [95%]", "KL [nats]"]
    spread = levene(*(by_seed(rows, arm) for arm in arms), center="median")
    return (
        f"Base: judge {base(reports, 'ppo')[JUDGE]:.3f}.\n\n{table(head, lines)}\n\n"
        f"Equal spread (Brown–Forsythe): p = {spread.pvalue:.3f}.\n\n"
        + differences(rows, [("tuned", "undertuned")], METRICS)
    )


def deviation_interval(values: Series) -> tuple[float, float]:
    """95% interval of a standard deviation, (n − 1)s²/χ²: exact for Gaussian values only."""
    from scipy.stats import chi2

    n = len(values)
    low, high = chi2.ppf([0.975, 0.025], n - 1)
    return float(values.std() * np.sqrt((n - 1) / low)), float(values.std() * np.sqrt((n - 1) / high))


def baselines(reports: Path) -> str:
    """REINFORCE's baselines at the same number of responses an iteration, at half and the whole of the budget."""
    rows = paths(reports, BASELINES)
    arms = ["loo-4", "loo-2", "moving-average"]
    pairs = [("loo-4", "loo-2"), ("loo-2", "moving-average"), ("loo-4", "moving-average")]
    half, end = rows[rows["point"] == 1], ends(rows)
    spread = " ".join(
        f"{arm} {text(mean_interval(events(reports, name).groupby('seed')['advantage_std'].mean()))};"
        for arm, name in zip(arms, BASELINES, strict=True)
    )
    return "\n\n".join(
        [
            "At the end:",
            summary(end, arms, METRICS | {"updates": "updates"}),
            differences(end, pairs, {JUDGE: "judge", "objective": "proxy − β·KL"}),
            "At half the budget:",
            summary(half, arms, METRICS),
            differences(half, pairs, {JUDGE: "judge", "objective": "proxy − β·KL"}),
            f"Standard deviation of the advantages, mean over training: {spread.rstrip(';')}.",
        ]
    )


def events(reports: Path, comparison: str) -> DataFrame:
    """One row an iteration, what training itself measured."""
    return Store.open(folder(reports, comparison)).events


def ppo_whitening(reports: Path) -> str:
    """PPO with and without advantage normalisation, with 64 and with 16 responses an iteration."""
    rows = ends(paths(reports, ["ppo", "ppo-small-batches"]))
    pairs = [
        ("tuned", "unwhitened"),
        ("small", "small-unwhitened"),
        ("tuned", "small"),
        ("unwhitened", "small-unwhitened"),
    ]
    arms = ["tuned", "unwhitened", "small", "small-unwhitened"]
    return "\n\n".join(
        [
            summary(rows, arms, METRICS | {"updates": "updates"}),
            differences(rows, pairs, {JUDGE: "judge", "objective": "proxy − β·KL", KL: "KL"}),
        ]
    )


def dpo_epochs(reports: Path) -> str:
    """Log-probabilities of training pairs by epoch, and where along training the judge peaks."""
    rows, log = paths(reports, ["dpo"]), events(reports, "dpo")
    arms = list(dict.fromkeys(rows["arm"]))
    logps = [_logps_line(log[log["arm"] == arm], arm) for arm in arms]
    peaks = [_peak_line(rows[rows["arm"] == arm], arm) for arm in arms]
    first = log[log["updates"] == 1]
    return "\n\n".join(
        [
            f"Before the first step (the base, {len(first) // len(arms)} batches of 32 pairs): log π of chosen "
            f"{text(mean_interval(first[first['arm'] == arms[0]]['chosen_logps']), 2)}.",
            table(
                ["arm", "chosen, epoch 1", "epoch 2", "epoch 3", "change 1 → 3", "rejected, change 1 → 3"],
                logps,
            ),
            table(
                ["arm", "peak of the mean, epoch", "judge there", "judge at the end", "peak − end", "epoch 1 − end", "proxy at the end",
                 "KL at the end"],
                peaks,
            ),
            "At the end:",
            differences(
                ends(rows),
                [("dpo-0.03", "dpo-0.3"), ("dpo-0.1", "dpo-0.3")],
                {JUDGE: "judge", PROXY: "proxy", KL: "KL [nats]"},
            ),
        ]
    )  # fmt: skip


def epoch_of(log: DataFrame, epochs: int = 3) -> Series:
    """1, 2, 3: which pass over the pairs an iteration was in; all passes are equally long."""
    position = log.groupby(["arm", "seed"])["updates"].rank() - 1
    length = log.groupby(["arm", "seed"])["updates"].transform("size") / epochs
    return (position // length).astype(int) + 1


def passed(rows: DataFrame, epochs: int = 3) -> Series:
    """Epochs behind each evaluation, the same for all seeds. Points are even in cost, not in pairs: the first
    epoch costs more, as it computes the reference's log-probabilities."""
    return epochs * rows.groupby("point")["updates"].transform("mean") / rows["updates"].max()


def _logps_line(log: DataFrame, arm: str) -> list[str]:
    means = log.assign(epoch=epoch_of(log)).groupby(["seed", "epoch"])[["chosen_logps", "rejected_logps"]]
    chosen, rejected = (means.mean()[name].unstack() for name in ("chosen_logps", "rejected_logps"))
    cells = [text(mean_interval(chosen[epoch]), 2) for epoch in (1, 2, 3)]
    return [
        arm,
        *cells,
        signed(mean_interval(chosen[3] - chosen[1]), 2),
        signed(mean_interval(rejected[3] - rejected[1]), 2),
    ]


def _peak_line(rows: DataFrame, arm: str) -> list[str]:
    curves_SK = rows.pivot_table(index="seed", columns="point", values=JUDGE)
    points = list(curves_SK.columns)
    peak, last = points[int(np.argmax(curves_SK.mean()))], points[-1]
    early = rows[passed(rows) < 1]["point"].max()  # the last evaluation inside the first epoch
    end = ends(rows)
    return [
        arm,
        f"{passed(rows)[rows['point'] == peak].iloc[0]:.2f}",
        text(mean_interval(curves_SK[peak])),
        text(mean_interval(curves_SK[last])),
        signed(leave_one_out_gap(curves_SK)),
        signed(mean_interval(curves_SK[early] - curves_SK[last])),
        text(mean_interval(end[PROXY])),
        text(mean_interval(end[KL]), 2),
    ]


def over_optimization(reports: Path) -> str:
    """Gao's curves for every seed, and where gold peaks."""
    rows = paths(reports, ["over-optimization"])
    start = base(reports, "over-optimization")
    lines, quality = [], []
    for seed, run in rows[rows["point"] > 0].groupby("seed"):
        gold, proxy = fitted(run, start, JUDGE), fitted(run, start, PROXY)
        other = fitted(run, start, JUDGE, "best_of_n")
        best = run.sort_values(JUDGE).iloc[-1]
        quality.append([gold.r_squared, other.r_squared, proxy.r_squared, gold.peak_kl, best[KL]])
        lines.append(
            [str(seed), f"{gold.a:.3f}", f"{gold.b:.3f}", *(f"{value:.2f}" for value in quality[-1]),
             f"{best[JUDGE]:.3f}", f"{run[JUDGE].iloc[-1]:.3f}", f"{run[KL].max():.1f}"]
        )  # fmt: skip
    means = [text(mean_interval(column), 2) for column in np.array(quality).T]
    lines.append(["mean", "", "", *means, "", "", ""])
    head = ["seed", "a", "b", "R² gold", "R² gold, linear", "R² proxy", "KL at the fit's peak",
            "KL at the best point", "judge there", "judge at the end", "largest KL"]  # fmt: skip
    gap = leave_one_out_gap(rows.pivot_table(index="seed", columns="point", values=JUDGE))
    log, linear = np.array(quality).T[:2]
    forms = signed(paired_difference(log, linear).estimate, 2)
    return f"{table(head, lines)}\n\nR², log − linear: {forms}. Judge, peak − end: {signed(gap)}."


def best_betas(reports: Path) -> str:
    """Judge and KL by algorithm and β, and every β against the algorithm's best one."""
    rows = ends(paths(reports, BETAS))
    rows = rows[~rows["arm"].isin(["undertuned", "unwhitened"])]
    parts = []
    for metric, digits in ((JUDGE, 3), (KL, 2)):
        cells = rows.groupby(["algorithm", "beta"])[metric].apply(mean_interval)
        wide = cells.map(partial(text, digits=digits)).unstack()
        head = [METRICS[metric], *(f"β = {beta:g}" for beta in wide.columns)]
        parts.append(table(head, [[name, *wide.loc[name]] for name in ("reinforce", "ppo", "dpo")]))
    for name in ("reinforce", "ppo", "dpo"):
        own = rows[rows["algorithm"] == name]
        means = own.groupby("arm")[JUDGE].mean().sort_values(ascending=False)
        pairs = [(means.index[0], other) for other in means.index[1:]]
        parts.append(differences(own, pairs, {JUDGE: f"judge, {name}"}))
    return "\n\n".join(parts)
