"""Captions: what they say of the reference's pass over recorded pairs and of marks, where there is something to say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_world import World, world

from eval.report.document import Block, Picture, Table
from eval.report.figures import theme
from eval.report.numbers.frames import evaluations
from eval.report.numbers.standings import standings
from eval.report.sections import outcomes


def sections_of(made: World) -> dict[str, tuple[Block, ...]]:
    """Anchor → blocks."""
    view = evaluations(made)
    with theme.drawing():
        sections = outcomes.sections(made, view, theme.styles(view.arms), standings(view))
    return {section.anchor: section.blocks for section in sections}


def captions(made: World) -> tuple[str, str]:
    """Of the learning curves and of the table of costs."""
    blocks = sections_of(made)
    curves, costs = blocks["learning"][0], blocks["cost"][0]
    assert isinstance(curves, Picture)
    assert isinstance(costs, Table)
    return curves.caption, costs.caption


PASS = "also spends time on the reference model's pass over its pairs; later runs read it from a cache."


@pytest.mark.parametrize(
    ("arms", "who"),
    [
        ({"ppo": "ppo", "dpo": "dpo"}, "dpo"),
        ({"ppo": "ppo", "dpo-a": "dpo", "dpo-b": "dpo"}, "dpo-a or dpo-b"),
        ({"ppo": "ppo"}, ""),
    ],
)
def test_the_references_pass_over_recorded_pairs_is_said(arms: dict[str, str], who: str) -> None:
    for caption in captions(world(Path("x"), arms)):
        assert bool(who) == ("reference" in caption)
        assert (f"The first run of {who} {PASS}" in caption) == bool(who)


def test_where_every_seed_has_pairs_of_its_own_the_first_run_is_one_of_each() -> None:
    made = world(Path("x"), {"ppo": "ppo", "dpo": "dpo"})
    anew = replace(made, settings=made.settings | {"replicate_data": True})
    for caption in captions(anew):
        assert f"The first run of dpo with each seed {PASS}" in caption
    for caption in captions(replace(anew, facts=made.facts | {"varies": ["reward model"]})):
        assert f"The first run of dpo {PASS}" in caption


def test_marks_of_runs_that_did_not_finish_are_explained_where_there_are_any() -> None:
    def explained(made: World) -> tuple[bool, bool]:
        """The cross of the figure of every seed, the dagger of its table."""
        sections = sections_of(made)
        picture, table = sections["seeds"][0], sections["summary"][-1]
        assert isinstance(picture, Picture)
        assert isinstance(table, Table)
        return "×" in picture.caption, "†" in table.caption

    assert explained(world(Path("x"))) == (False, False)
    assert explained(world(Path("x"), failed=[("ppo", 1)])) == (True, True)


def test_what_the_tables_of_metrics_hold_is_said_under_the_first() -> None:
    outcomes_, further, _ = sections_of(world(Path("x")))["summary"]
    assert isinstance(outcomes_, Table)
    assert isinstance(further, Table)
    assert outcomes_.caption.startswith("Mean over finished seeds at the end of training")
    assert (further.heading, further.caption) == ("Further metrics", "")
