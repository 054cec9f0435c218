"""What came of it, section by section; seeds, learning curves and diagnostics are here, the others in modules of their own."""

from __future__ import annotations

from eval import format as fmt
from eval.report.document import Block, Picture, Section, Text
from eval.report.figures import axes, diagnostics
from eval.report.figures import outcomes as figures
from eval.report.figures.theme import Style
from eval.report.inputs import JUDGE, KL, PROXY, ReportInput
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.objectives import leading
from eval.report.numbers.reachable import reachable
from eval.report.numbers.standings import Standings
from eval.report.sections import frontier, overoptimization, summary, verdict, versus

Look = dict[str, Style]


def sections(comparison: ReportInput, view: Evaluations, look: Look, found: Standings) -> list[Section]:
    """Everything the evaluations say, in the order in which a reader asks."""
    best = reachable(comparison)
    first = verdict.section(comparison, view, found, best)
    if len(view.paths) == 0 or JUDGE not in view.metrics:
        nothing = Text("No run has been evaluated with the judge yet, so there is nothing to draw.")
        unknown = Section(frontier.ANCHOR, "Reward against KL", (nothing,))
        return [first, summary.ends(comparison, view), unknown, summary.cost(comparison, view)]
    return [
        first,
        summary.ends(comparison, view),
        Section("seeds", "Every seed", tuple(_seeds(view, look))),
        versus.section(view, found, leading(comparison, found)),
        frontier.section(comparison, view, look, best),
        summary.cost(comparison, view),
        Section("learning", "Learning curves", (_learning(view, look),)),
        overoptimization.section(view, look),
    ]


def _learning(view: Evaluations, look: Look) -> Picture:
    caption = (
        f"Mean {fmt.label(JUDGE)} on held-out prompts against each measure of what training spends. {axes.SEED_LINES} "
        "Bands, from five seeds on, are 95% Student t intervals at each point. Preparation and evaluation are not counted."
    )
    figure = figures.learning_curves(view.paths, look, view.base)
    alternative = "Judge reward against updates, completions, FLOPs and seconds"
    return Picture("learning-curves", figure, caption + axes.others(look), alternative)


def _seeds(view: Evaluations, look: Look) -> list[Block]:
    if view.runs["seed"].nunique() < 2:
        return [
            Text("There is one seed; its numbers are in the summary. The spread between seeds is not known.")
        ]
    metrics = [m for m in (JUDGE, PROXY, KL) if m in view.metrics]
    caption = (
        "Each small marker is one run at its end, seeds from top to bottom; the vertical bar is their mean, the horizontal line its 95% "
        "Student t interval (cut off where it is far wider than the seeds). Dotted: the base; where it lies beyond "
        "the axis, its value is above the panel."
    )
    if axes.any_failed(view.paths):
        caption += " × is the last evaluation of a run that did not finish, not in the mean."
    figure = figures.every_seed(view.ends, look, view.base, metrics)
    return [Picture("seeds", figure, caption, "Every run's end by arm")]


def training(comparison: ReportInput, look: Look) -> Section:
    """One figure an algorithm, with the metrics that it logged; before the first, how to read them."""
    events = comparison.events
    blocks: list[Block] = []
    how = Text(
        "What training logged, against updates. Thin lines are seeds, bold lines their mean, as far as half of them went. "
        f"Averaged over up to {diagnostics.BINS} stretches of training (maxima stay maxima); values that are not finite are "
        "not drawn; logarithmic where values span orders of magnitude."
    )
    for number, algorithm in enumerate(dict.fromkeys(style.algorithm for style in look.values())):
        own = {arm: style for arm, style in look.items() if style.algorithm == algorithm}
        rows = events[events["arm"].isin(own)] if len(events) else events
        metrics = diagnostics.logged(rows) if len(rows) else []
        if not metrics:
            blocks.append(Text(f"{algorithm}: nothing was logged during training.", label="No diagnostics"))
            continue
        figure, alternative = diagnostics.figure(rows, own, metrics), f"Training diagnostics of {algorithm}"
        blocks.append(Picture(f"diagnostics-{number + 1}", figure, "", alternative, heading=algorithm))
    first = [how] if any(isinstance(block, Picture) for block in blocks) else []
    return Section("diagnostics", "Diagnostics of training", (*first, *blocks))
