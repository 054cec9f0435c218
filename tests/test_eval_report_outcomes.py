"""Captions that speak of seconds: the reference's pass over recorded pairs is in those of one run alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_world import World, world

from eval.report.document import Picture, Table
from eval.report.figures import theme
from eval.report.numbers.frames import evaluations
from eval.report.numbers.standings import standings
from eval.report.sections import outcomes


def captions(made: World) -> tuple[str, str]:
    """Of the learning curves and of the table of costs."""
    view = evaluations(made)
    with theme.drawing():
        sections = outcomes.sections(made, view, theme.styles(view.arms), standings(view))
    blocks = {section.anchor: section.blocks for section in sections}
    curves, costs = blocks["learning"][0], blocks["cost"][0]
    assert isinstance(curves, Picture)
    assert isinstance(costs, Table)
    return curves.caption, costs.caption


@pytest.mark.parametrize(
    ("arms", "who"),
    [
        ({"ppo": "ppo", "dpo": "dpo"}, "dpo"),
        ({"ppo": "ppo", "dpo-a": "dpo", "dpo-b": "dpo"}, "dpo-a and dpo-b"),
        ({"ppo": "ppo"}, ""),
    ],
)
def test_the_references_pass_over_recorded_pairs_is_said(arms: dict[str, str], who: str) -> None:
    for caption in captions(world(Path("x"), arms)):
        assert bool(who) == ("reference" in caption)
        assert (
            f"The seconds of {who} begin with the reference's pass over the recorded pairs" in caption
        ) == bool(who)
