"""The section of pairs: a table for each of the three comparisons."""

from __future__ import annotations

import dataclasses

from report_cases import OWN, twelve, two_paths, with_facts
from report_world import World, with_ends, with_paths

from eval.report.document import Table, Text
from eval.report.numbers.frames import evaluations
from eval.report.numbers.objectives import leading
from eval.report.numbers.standings import standings
from eval.report.sections import versus


def tables_of(made: World) -> list[Table]:
    view = evaluations(made)
    found = standings(view)
    section = versus.section(view, found, leading(made, found))
    return [block for block in section.blocks if isinstance(block, Table) and "differences" in block.heading]


def test_three_tables_the_leading_one_first() -> None:
    plain, apart = tables_of(two_paths()), tables_of(with_facts(two_paths(), **OWN))
    titles = ["At the end of training", "At equal total cost", "At matched KL"]
    assert [table.heading.partition(":")[0] for table in plain] == titles
    assert [table.heading.partition(":")[0] for table in apart] == [titles[2], *titles[:2]]
    heads = [column.label for column in apart[0].columns]
    (row,) = [[cell.text for cell in row] for row in apart[0].rows]
    assert dict(zip(heads, row, strict=True)) | {"p": "", "effect": "", "difference": ""} == {
        "higher": "reinforce", "lower": "dpo", "difference": "", "p": "", "probability of improvement": "1.00", "effect": "",
        "KL": "2.00", "seeds": "5", "verdict at 5%": "told apart",
    }  # fmt: skip
    assert [cell.small for cell in apart[0].rows[0]][heads.index("KL")] == "79%, 100%"


def test_tables_are_folded_where_there_are_many_arms() -> None:
    assert [bool(table.folded) for table in tables_of(two_paths())] == [False, False, False]
    four = with_ends({f"arm{i}": [0.5, 0.6, 0.55] for i in range(4)})
    assert [bool(table.folded) for table in tables_of(four)] == [False, True, True]
    assert [bool(table.folded) for table in tables_of(twelve(3))] == [True, True, True]


def test_a_comparison_that_cannot_be_made_says_why() -> None:
    still = [(0.0, 0.0, 0.4), (1.0, 0.01, 0.4), (2.0, 0.01, 0.41)]
    moved = [(0.0, 0.0, 0.4), (1.0, 1.0, 0.5), (2.0, 2.0, 0.6)]
    made = with_paths({"still": [still, still], "moved": [moved, moved]})
    view = evaluations(made)
    found = standings(view)
    texts = [b for b in versus.section(view, found, found.end).blocks if isinstance(b, Text)]
    (why,) = [text.text for text in texts if text.label == "At matched KL"]
    assert "still stayed within 0.05 nats of the base" in why


def test_what_has_no_interval_is_not_called_not_told_apart() -> None:
    """Equal in every seed, or apart by the same in every seed: neither was judged."""
    made = with_ends({"a": [0.7, 0.8, 0.9], "b": [0.7, 0.8, 0.9], "c": [0.2, 0.3, 0.4], "d": [0.5, 0.9, 0.7]})
    rows = [[cell.text for cell in row] for row in tables_of(made)[0].rows]
    says = {frozenset(row[:2]): row[-1] for row in rows}
    assert says[frozenset("ab")] == "equal"
    assert says[frozenset("ac")] == says[frozenset("bc")] == "no interval"
    assert says[frozenset("ad")] == "not told apart"


def test_what_the_columns_hold_is_said_once_above_the_tables() -> None:
    made = two_paths()
    view = evaluations(made)
    found = standings(view)
    blocks = versus.section(view, found, found.end).blocks
    said = [b.text if isinstance(b, Text) else getattr(b, "caption", "") for b in blocks]
    for words in (
        "Student's t for its pair alone",
        "Holm's method",
        "Probability of improvement: ",
        "Hedges' g",
    ):
        assert sum(words in text for text in said) == 1
    first = min(i for i, b in enumerate(blocks) if isinstance(b, Table) and "differences" in b.heading)
    assert "Hedges' g" in "".join(said[:first])
    assert [table.caption[:40] for table in tables_of(made)] == [
        "",
        "",
        "Each pair at the smallest KL at which on",
    ]


def test_a_difference_without_an_interval_stands_alone() -> None:
    (row,) = tables_of(with_ends({"a": [0.9], "b": [0.275]}))[0].rows
    assert (row[2].text, row[2].small) == ("+0.625", "")


def test_what_rough_means_is_said_where_something_is() -> None:
    """Of an arm whose first evaluation lies beyond the cost or KL where it is read."""
    late = [(0.0, 0.0, 0.4), (8.0, 4.0, 0.9)]
    fine = [(0.0, 0.0, 0.4), (2.0, 0.5, 0.5), (4.0, 1.0, 0.6), (6.0, 1.5, 0.7)]
    rough = with_paths({"late": [late, late], "fine": [fine, fine]})
    alike = with_paths({"one": [fine, fine], "two": [fine, fine]})
    assert ["read roughly" in found.caption for found in tables_of(rough)] == [False, True, True]
    assert not any("read roughly" in found.caption for found in tables_of(alike))
    for found in tables_of(rough)[1:]:
        assert found.rows[0][-1].text == "not claimed"
        assert found.caption.endswith("Read roughly here: late.")


def test_how_much_of_its_budget_an_arm_has_spent_at_equal_cost_is_in_the_table() -> None:
    """One arm ends there, after two thirds of its budget; one is half way; the preparation of one costs more."""
    cheap = [(1.0, 0.0, 0.4), (3.0, 1.0, 0.5), (5.0, 2.0, 0.6)]
    slow = [(3.0, 0.0, 0.4), (4.0, 1.0, 0.5), (7.0, 2.0, 0.6)]
    dear = [(6.0, 0.0, 0.4), (7.0, 1.0, 0.5)]
    made = with_paths({"cheap": [cheap] * 2, "slow": [slow] * 2, "dear": [dear] * 2})
    used = made.runs["fraction"].where(made.runs["arm"] != "cheap", 2 / 3)
    view = evaluations(dataclasses.replace(made, runs=made.runs.assign(fraction=used)))
    found = standings(view)
    blocks = versus.section(view, found, found.end).blocks
    (table,) = [b for b in blocks if isinstance(b, Table) and b.heading == "Judge reward"]
    assert table.columns[-1].label == "budget spent there"
    assert {row[0].text: row[-1].text for row in table.rows} == {"cheap": "67%", "slow": "50%", "dear": "–"}
