"""What the report says of a comparison, in one string."""

from __future__ import annotations

from report_world import World

from eval.report.caveats import conditions
from eval.report.numbers.frames import evaluations
from eval.report.numbers.standings import standings
from eval.report.sections import verdict


def said(made: World) -> str:
    """The verdict's sentences."""
    return " ".join(verdict.read(made).sentences)


def held(made: World) -> str:
    """The sentence on what the intervals hold for."""
    return conditions.sentence(made, standings(evaluations(made)))
