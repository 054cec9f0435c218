"""The section on over-optimization: every seed's peak, and why a seed has none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from gao_paths import KL, path
from report_world import with_paths

from eval.report.document import Section, Table, Text
from eval.report.figures import theme
from eval.report.numbers.frames import evaluations
from eval.report.sections import overoptimization

Gains = list[tuple[float, float]]  # KL, gain over the base


def section_of(paths: dict[str, list[Gains]]) -> Section:
    """The report's section on arms whose seeds were evaluated so, judge and proxy alike."""
    base = 0.44  # of both rewards
    runs = {
        arm: [[(0.0, 0.0, base), *((1.0, kl, base + gain) for kl, gain in own)] for own in seeds]
        for arm, seeds in paths.items()
    }
    made = with_paths(runs)
    judged = made.results[made.results["metric"] == "reward/judge"]
    results = pd.concat([made.results, judged.assign(metric="reward/proxy")])
    view = evaluations(dataclasses.replace(made, results=results))
    with theme.drawing():
        return overoptimization.section(view, theme.styles(view.arms))


def table_of(paths: dict[str, list[Gains]]) -> dict[str, list[str]]:
    """Arm → what its row says beside it."""
    (table,) = [block for block in section_of(paths).blocks if isinstance(block, Table)]
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def along(a: float, b: float, kl_N: np.ndarray = KL) -> Gains:
    return list(zip(kl_N.tolist(), path("rl", a, b, kl_N).tolist(), strict=True))


def test_peaks_are_told_seed_by_seed() -> None:
    """Those on a seed's path in nats, in rising order; of the others how many there are, and why they have none."""
    unruly = list(zip(KL.tolist(), [0.2, -0.2, 0.2, -0.2, 0.2], strict=True))
    seeds = [along(0.6, 0.3), along(0.3, 0.3), along(0.1, 0.3), unruly]
    rows = table_of({"ppo": seeds, "dpo": seeds[:1]})
    assert rows["ppo"][0] == "4"
    assert rows["ppo"][-1] == "1.00, 7.39; 1 before the first evaluation; 1 poorly fitted"
    assert (rows["dpo"][0], rows["dpo"][-1]) == ("1", "7.39")


def test_a_judge_that_only_fell_is_not_said_to_rise() -> None:
    """Three seeds of an arm, in the report's table."""
    gains_SN = [
        [-0.2, -0.3, -0.32, -0.33, -0.33],  # the fit turns up at its end, below the base
        [-0.1, -0.2, -0.3, -0.39, -0.45],
        [0.1, 0.2, 0.3, 0.39, 0.45],
    ]
    kl_N = [0.5, 2.0, 5.0, 9.0, 12.0]
    row = table_of({"ppo": [list(zip(kl_N, gain_N, strict=True)) for gain_N in gains_SN]})["ppo"]
    assert row[-1] == "1 with no peak up to the largest KL; 1 falling; 1 rising again, below the base"


def test_an_arm_that_cannot_be_fitted_has_its_row_and_its_markers() -> None:
    rising, few, near = along(0.9, 0.3), [(0.5, 0.1), (2.0, 0.3)], along(0.9, 0.3, KL / 300)
    paths = {
        "reinforce": [rising, few, near],
        "ppo": [few, few],
        "dpo": [near],
        "flat": [[(kl, 0.1) for kl in KL]],
    }
    rows = table_of(paths)
    assert rows["reinforce"][0] == "1 of 3"
    assert rows["reinforce"][-1] == (
        "1 with no peak up to the largest KL; 1 with too few evaluations at distinct KL to fit; "
        "1 with no evaluation at 0.05 nats or more"
    )
    assert rows["ppo"] == ["0 of 2", "–", "–", "–", "too few evaluations at distinct KL to fit"]
    assert rows["dpo"] == ["0 of 1", "–", "–", "–", "no evaluation at 0.05 nats or more"]
    assert (rows["flat"][0], rows["flat"][-2:]) == ("1", ["–", "1 without change"])
    *_, picture = section_of(paths).pictures
    markers = {
        line.get_color(): line for line in picture.figure.axes[0].lines if line.get_linestyle() == "None"
    }
    points = {
        arm: len(markers[style.colour].get_xdata())
        for arm, style in theme.styles({arm: arm for arm in paths}).items()
    }
    assert points == {"reinforce": 15, "ppo": 6, "dpo": 6, "flat": 6}


def test_where_no_arm_can_be_fitted_a_sentence_says_so() -> None:
    *_, last = section_of({"ppo": [along(0.9, 0.3, KL / 300)], "dpo": [[(0.5, 0.1)]]}).blocks
    assert isinstance(last, Text)
    assert last.text == (
        "Gao et al.'s curve was not fitted to any run: 1 with no evaluation at 0.05 nats or more; 1 with too few evaluations "
        "at distinct KL to fit."
    )


# As PPO's on `reviews`: far out while half trained, then nearer to the base and better.
RETURNED = [(0.4, 0.08), (1.5, 0.19), (2.9, 0.28), (2.3, 0.3), (2.1, 0.32)]


def test_a_path_that_came_back_has_no_curve_in_kl() -> None:
    """A fit to it would say that the judge rises up to the largest KL, where the run had less than at its end."""
    rising = along(0.9, 0.3)
    rows = table_of({"ppo": [RETURNED, RETURNED, rising], "reinforce": [RETURNED], "dpo": [rising]})
    assert rows["ppo"][0] == "1 of 3"
    assert rows["ppo"][-1] == "1 with no peak up to the largest KL; 2 came back"
    assert rows["reinforce"] == [
        "0 of 1",
        "–",
        "–",
        "–",
        "came back: its KL fell again, so there is no curve in KL",
    ]
    (_, picture) = section_of({"ppo": [RETURNED], "dpo": [rising]}).pictures
    curves = [line for line in picture.figure.axes[0].lines if line.get_linestyle() != "None"]
    assert len(curves) == 1
    *_, last = section_of({"ppo": [RETURNED, RETURNED]}).blocks
    assert isinstance(last, Text)
    assert last.text == (
        "Gao et al.'s curve was not fitted to any run: 2 came back. Where KL falls again, the judge is no function of KL."
    )


def test_the_fits_coefficients_are_not_called_as_that_of_the_kl() -> None:
    section = section_of({"dpo": [along(0.9, 0.3)]})
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    assert [column.label for column in table.columns[2:4]] == ["a", "b"]
    captions = [table.caption, section.pictures[-1].caption]
    assert all("d·(a − b·log d)" in caption and "β" not in caption for caption in captions)


def test_the_markers_of_the_base_are_whole() -> None:
    """They stand in the corner of the axes."""
    *_, picture = section_of({"dpo": [along(0.9, 0.3)]}).pictures
    markers = [line for ax in picture.figure.axes for line in ax.lines if line.get_linestyle() == "None"]
    assert markers
    assert not any(line.get_clip_on() for line in markers)
