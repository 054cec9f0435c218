"""Ticks of the report's figures: where they stand and how they are labelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report_world import world

from eval.report.figures import diagnostics, theme, ticks


def test_round_steps() -> None:
    assert ticks.round_steps(400, 4) == [0, 20, 100, 200, 400]
    assert ticks.round_steps(1e-3, 4) == [0, 1e-4, 3e-4, 6e-4, 1e-3]
    assert ticks.fitting(0.0, 200) == [0.0]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 5e-4, 1e-3, 1.5e-3, 2e-3], ["0", "0.0005", "0.001", "0.0015", "0.002"]),  # a learning rate
        ([-5e-5, 0, 5e-5, 1e-4], ["−0.5×10⁻⁴", "0", "0.5×10⁻⁴", "1×10⁻⁴"]),
        ([1e-4, 1e-3, 1e-2], ["10⁻⁴", "10⁻³", "10⁻²"]),  # a logarithmic axis
        ([1e-5, 1e-3], ["10⁻⁵", "10⁻³"]),
        ([3e-5, 3e-3], ["3×10⁻⁵", "3×10⁻³"]),
        ([0, 5e8, 1e9], ["0", "0.5×10⁹", "1×10⁹"]),
        ([1.5e-6, 2e-6], ["1.5×10⁻⁶", "2×10⁻⁶"]),
        ([0, 500, 1000], ["0", "500", "1k"]),
        ([0.985, 0.99, 0.995, 1], ["0.985", "0.99", "0.995", "1"]),
        ([], []),
    ],
)
def test_an_axis_has_one_notation(values: list[float], labels: list[str]) -> None:
    assert ticks.labels(values) == labels


def test_the_ticks_of_a_learning_rate_are_all_decimals() -> None:
    events = world(Path("x"), {"ppo": "ppo"}, 1).events
    events = events.assign(learning_rate=np.linspace(2e-3, 0, len(events)))
    with theme.drawing():
        figure = diagnostics.figure(events, theme.styles({"ppo": "ppo"}), ["learning_rate"])
        figure.draw_without_rendering()
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(shown) >= 3
    assert not any("×" in text for text in shown)
