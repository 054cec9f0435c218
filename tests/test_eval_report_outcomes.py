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
from eval.report.sections import outcomes, summary


def sections_of(made: World) -> dict[str, tuple[Block, ...]]:
    """Anchor → blocks."""
    view = evaluations(made)
    with theme.drawing():
        sections = outcomes.sections(made, view, theme.styles(view.arms), standings(view))
    return {section.anchor: section.blocks for section in sections}


@pytest.fixture(scope="module")
def whole() -> dict[str, tuple[Block, ...]]:
    """Every section of a plain comparison; to draw the figures takes a second."""
    return sections_of(world(Path("x")))


def costs(made: World) -> Table:
    table = summary.cost(made, evaluations(made)).blocks[0]
    assert isinstance(table, Table)
    return table


def tables_of(made: World) -> list[Table]:
    """Of what every arm reached."""
    return [block for block in summary.ends(made, evaluations(made)).blocks if isinstance(block, Table)]


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
    caption = costs(world(Path("x"), arms)).caption
    assert bool(who) == ("reference" in caption)
    assert (f"The first run of {who} {PASS}" in caption) == bool(who)


def test_where_every_seed_has_pairs_of_its_own_the_first_run_is_one_of_each() -> None:
    made = world(Path("x"), {"ppo": "ppo", "dpo": "dpo"})
    anew = replace(made, settings=made.settings | {"replicate_data": True})
    assert f"The first run of dpo with each seed {PASS}" in costs(anew).caption
    shared = replace(anew, facts=made.facts | {"varies": ["reward model"]})
    assert f"The first run of dpo {PASS}" in costs(shared).caption


def test_marks_of_runs_that_did_not_finish_are_explained_where_there_are_any() -> None:
    def explained(made: World) -> tuple[bool, bool]:
        """The cross of the figure of every seed, the dagger of its table."""
        picture, table = sections_of(made)["seeds"][0], tables_of(made)[-1]
        assert isinstance(picture, Picture)
        assert isinstance(table, Table)
        return "×" in picture.caption, "†" in table.caption

    assert explained(world(Path("x"))) == (False, False)
    assert explained(world(Path("x"), failed=[("ppo", 1)])) == (True, True)


def test_captions_say_what_lines_are_that_no_run_has(whole: dict[str, tuple[Block, ...]]) -> None:
    """A mean of seeds that differ, and the base."""
    pictures = {
        block.stem: block.caption
        for blocks in whole.values()
        for block in blocks
        if isinstance(block, Picture)
    }
    for stem in ("reward-kl", "learning-curves", "proxy-judge"):
        assert "along both axes: where one seed is far from the others, no run is there." in pictures[stem]
    assert (
        "Dotted: the base; where it lies beyond the axis, its value is above the panel." in pictures["seeds"]
    )
    assert "grey, with ±: not decided, as the 95% interval over seeds has 0.5 in it." in pictures["win-rates"]


HOW = "Mean over finished seeds at the end of training"


def test_captions_are_said_once(whole: dict[str, tuple[Block, ...]]) -> None:
    blocks = [block for blocks in whole.values() for block in blocks]
    written = [getattr(block, "caption", "") for block in blocks]
    assert sum(HOW in caption for caption in written) == sum(PASS in caption for caption in written) == 1
    first, outcomes_, further, *_ = (block for block in blocks if isinstance(block, Table))
    assert first.caption.startswith(HOW)
    assert outcomes_.caption == "Means and ± are as in the verdict's table."
    assert (further.heading, further.caption) == ("Further metrics", "")
    assert costs(world(Path("x"))).caption.count("as in the verdict's table") == 1


def test_where_the_verdict_has_no_table_the_first_says_what_it_holds() -> None:
    made = world(Path("x"))
    unjudged = replace(made, results=made.results[made.results["metric"] != "reward/judge"])
    assert tables_of(unjudged)[0].caption.startswith(HOW)


def test_intervals_that_reach_where_a_metric_cannot_be_are_owned_up_to() -> None:
    """A share of 0.76 ± 0.31 in one arm; 0.999 ± 0.002 is a matter of rounding, and rewards know no bounds."""

    def caption(metric: str, *ends: float) -> str:
        made = world(Path("x"), {"ppo": "ppo", "dpo": "dpo"}, len(ends))
        results = made.results.copy()
        of_ppo = (results["metric"] == metric) & (results["arm"] == "ppo")
        results.loc[of_ppo & (results["point"] == results["point"].max()), "value"] = ends
        (found,) = (
            table for table in tables_of(replace(made, results=results)) if table.heading == "Outcomes"
        )
        return found.caption

    apart = (
        "± of ppo reaches beyond what the metric can be: Student's t knows no bounds, and its seeds are few or lie far "
        "apart; see every seed."
    )
    assert caption("win_rate", 0.9, 0.87, 0.88, 0.85, 0.31).endswith(f" {apart}")
    assert apart in caption("perplexity/heldout", 20.0, 21.0, 20.0, 21.0, 10_000.0)
    assert apart in caption("kl/sequence", 0.1, 0.1, 0.1, 0.1, 5.0)
    assert apart not in caption("eos_rate", 1.0, 1.0, 1.0, 0.996, 1.0)
    assert apart not in caption("reward/judge", 0.8, 0.8, 0.8, 0.8, -9.0)
    assert apart not in caption("win_rate", 0.8, 0.82, 0.81, 0.8, 0.8)
