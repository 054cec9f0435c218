"""What came of it, section by section; learning curves and seeds are here, the others in modules of their own."""

from __future__ import annotations

from eval import format as fmt
from eval.report.document import Block, Picture, Section, Text
from eval.report.figures import axes
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
        return [first, unknown, summary.cost(comparison, view), summary.ends(comparison, view)]
    return [
        first,
        frontier.section(comparison, view, look, best),
        summary.cost(comparison, view),
        summary.ends(comparison, view),
        versus.section(view, found, leading(comparison, found)),
        Section("learning", "Learning curves", tuple(_learning(comparison, view, look))),
        overoptimization.section(view, look),
        Section("seeds", "Every seed", tuple(_seeds(view, look))),
    ]


def _learning(comparison: ReportInput, view: Evaluations, look: Look) -> list[Block]:
    caption = (
        f"Mean {fmt.label(JUDGE)} on held-out prompts against each measure of what training spends. {axes.SEED_LINES} "
        "Bands, from five seeds on, are 95% Student t intervals at each point. Preparation and evaluation are not counted."
    )
    timed = summary.reference_pass(comparison, view) if view.paths["seconds"].notna().any() else ""
    figure = figures.learning_curves(view.paths, look, view.base)
    alternative = "Judge reward against updates, completions, FLOPs and seconds"
    return [Picture("learning-curves", figure, caption + timed + axes.others(look), alternative)]


def _seeds(view: Evaluations, look: Look) -> list[Block]:
    if view.runs["seed"].nunique() < 2:
        return [
            Text("There is one seed; its numbers are in the summary. The spread between seeds is not known.")
        ]
    metrics = [m for m in (JUDGE, PROXY, KL) if m in view.metrics]
    caption = (
        "Each small marker is one run at its end, seeds from top to bottom; the vertical bar is their mean, the horizontal line its 95% "
        "Student t interval (cut off where it is far wider than the seeds)."
    )
    if axes.any_failed(view.paths):
        caption += " × is the last evaluation of a run that did not finish, not in the mean."
    figure = figures.every_seed(view.ends, look, view.base, metrics)
    return [Picture("seeds", figure, caption, "Every run's end by arm")]
