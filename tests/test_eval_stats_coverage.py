"""The measurements of docs/statistics.md: their truths are true, and the page says what the project promises."""

from __future__ import annotations

import numpy as np
import pytest
from pages import measured, shares

from benchmarks.coverage.__main__ import TABLES
from benchmarks.coverage.populations import PROMPTS, SEEDS, Population
from benchmarks.page import filled, markdown


@pytest.mark.parametrize("population", SEEDS, ids=lambda population: population.name)
def test_the_true_means_are_those_of_a_large_sample(population: Population) -> None:
    values_N = np.sort(population.draw(np.random.default_rng(0), (1_000_000,)))
    error = 5 * values_N.std() / 1000
    assert values_N.mean() == pytest.approx(population.mean, abs=error)
    # A quarter collapses and a quarter is cut: chance decides whether some hundred of the collapsed are left.
    middle = values_N[250_000:750_000].mean()
    assert middle == pytest.approx(
        population.interquartile_mean, abs=0.01 if "50" not in population.name else 0.15
    )


@pytest.mark.parametrize("name", PROMPTS)
def test_the_true_means_of_prompts_are_those_of_a_large_sample(name: str) -> None:
    draw, mean = PROMPTS[name]
    values_N = draw(np.random.default_rng(0), (1_000_000,))
    assert values_N.mean() == pytest.approx(mean, abs=5 * values_N.std() / 1000)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_on_the_page(name: str) -> None:
    assert len(measured(name)) > 1


def test_intervals_of_gaussian_seeds_hold_what_they_promise() -> None:
    (row,) = [row for row in measured("t-intervals") if row[0] == "Gaussian"]
    assert len(shares(row)) == 4
    assert all(93 <= share <= 97 for share in shares(row))


def test_with_few_seeds_no_interval_misses_without_a_warning() -> None:
    few = [row for row in measured("verdicts") if int(row[1]) < 5]
    assert len(few) == 10
    assert all(shares(row)[2] == 0 for row in few)


def test_holm_keeps_false_claims_at_its_level() -> None:
    assert all(shares(row)[-1] < 5.7 for row in measured("family-errors"))


def test_power_is_found_as_predicted() -> None:
    for row in measured("powers"):
        predicted, found, bound, by_holm = shares(row)
        assert found == pytest.approx(predicted, abs=0.6)
        assert by_holm > bound - 1.5


def test_a_table_goes_between_its_markers_and_nowhere_else() -> None:
    text = "a\n<!-- x -->\nold\n<!-- end x -->\nb\n<!-- y -->\n<!-- end y -->\n"
    once = filled(text, "x", markdown(["n", "%"], [["1", r"\1"]]))
    assert (
        once
        == "a\n<!-- x -->\n\n| n | % |\n| --- | --: |\n| 1 | \\1 |\n\n<!-- end x -->\nb\n<!-- y -->\n<!-- end y -->\n"
    )
    assert filled(once, "x", markdown(["n", "%"], [["1", r"\1"]])) == once
    with pytest.raises(KeyError):
        filled(text, "z", "")
