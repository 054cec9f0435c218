"""What the report says of a comparison, in one string."""

from __future__ import annotations

from report_world import World

from eval.report import conditions, verdict
from eval.report.frames import evaluations
from eval.report.standings import standings


def said(made: World) -> str:
    """The verdict's sentences."""
    return " ".join(verdict.sentences(made))


def held(made: World) -> str:
    """The sentence on what the intervals hold for."""
    return conditions.sentence(made, standings(evaluations(made)))
