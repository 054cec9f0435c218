from __future__ import annotations

import colorsys
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb, to_rgba
from report_world import ARMS, World, world

from eval.report.figures import diagnostics, theme
from eval.report.figures import kl as kl_figures
from eval.report.figures import outcomes as figures
from eval.report.numbers import frames, tables
from eval.stats import Estimate

MANY = {f"{name}-beta-{beta}": name for name in ARMS for beta in (0.02, 0.05, 0.1, 0.3)}
HOSTILE = {
    "_$a$ <b>|\n\x1b]0;": "reinforce",
    "a name that is very long and says nearly everything": "ppo",
    "dpo": "dpo",
}
WORLDS: dict[str, Callable[[], World]] = {
    "typical": lambda: world(Path("x")),
    "one run": lambda: world(Path("x"), {"reinforce": "reinforce"}, 1),
    "many": lambda: world(Path("x"), MANY, 3, failed=[("ppo-beta-0.1", 2)]),
    "all failed": lambda: world(Path("x"), seeds=2, failed=list(itertools.product(ARMS, range(2)))),
    "hostile": lambda: world(Path("x"), HOSTILE, 2),
}


@pytest.fixture(autouse=True)
def drawing() -> Iterator[None]:
    with theme.drawing():
        yield


def drawn(made: World) -> dict[str, Any]:
    view = frames.evaluations(made)
    look = theme.styles(view.arms)
    events = made.events[made.events["algorithm"] == "ppo"]
    own = {arm: style for arm, style in look.items() if style.algorithm == "ppo"}
    found = {
        "reward-kl": kl_figures.reward_against_kl(view.paths, look, view.base, {}),
        "proxy-judge": figures.proxy_against_judge(view.paths, look, view.base),
        "learning": figures.learning_curves(view.paths, look, view.base),
        "seeds": figures.every_seed(view.ends, look, view.base, ["reward/judge", "kl/sequence"]),
        "win-rates": heat_map(tables.win_rates(view), list(view.arms)),
    }
    if len(events):
        found["diagnostics"] = diagnostics.figure(events, own, diagnostics.logged(events))
    return found


def heat_map(rates: figures.Rates, arms: list[str]) -> Any:
    return figures.win_rates(figures.matrix(rates, arms), figures.undecided(rates, arms))


@pytest.mark.parametrize("name", WORLDS)
def test_no_text_is_cut_off_or_overlaps(name: str) -> None:
    for stem, figure in drawn(WORLDS[name]()).items():
        figure.draw_without_rendering()
        page = figure.bbox
        for text in visible_texts(figure):
            box = text.get_window_extent()
            inside = (
                page.x0 - 1 <= box.x0
                and box.x1 <= page.x1 + 1
                and page.y0 - 1 <= box.y0
                and box.y1 <= page.y1 + 1
            )
            assert inside, f"{stem}: {text.get_text()!r} is cut off"
        for ax in figure.axes:
            check_ticks(stem, ax)


def visible_texts(figure: Any) -> list[Any]:
    from matplotlib.text import Text

    hidden = hidden_labels(figure)
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text() and t not in hidden]


def hidden_labels(figure: Any) -> set[Any]:
    """Those of ticks beyond an axis's limits: matplotlib keeps them but does not draw them."""
    ticks = [tick for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for tick in axis.get_major_ticks()]
    of_ticks = {label for tick in ticks for label in (tick.label1, tick.label2)}
    return of_ticks - {label for ax in figure.axes for axis in "xy" for label in shown_labels(ax, axis)}


def shown_labels(ax: Any, axis: str) -> list[Any]:
    low, high = sorted(ax.get_xlim() if axis == "x" else ax.get_ylim())
    ticks = (ax.xaxis if axis == "x" else ax.yaxis).get_major_ticks()
    labels = [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]
    return [label for label in labels if label.get_visible() and label.get_text()]


def check_ticks(stem: str, ax: Any) -> None:
    for axis in "xy":
        labels = shown_labels(ax, axis)
        for one, next_ in itertools.pairwise(labels):
            if one.get_rotation() == 0:
                overlap = one.get_window_extent().overlaps(next_.get_window_extent())
                assert not overlap, f"{stem}: {one.get_text()!r} overlaps {next_.get_text()!r}"


@pytest.mark.parametrize("name", ["typical", "many"])
def test_every_finished_arm_has_its_mean_in_its_own_colour(name: str) -> None:
    made = WORLDS[name]()
    view = frames.evaluations(made)
    look = theme.styles(view.arms)
    figure = figures.proxy_against_judge(view.paths, look, view.base)
    bold = {line.get_color() for ax in figure.axes for line in ax.lines if line.get_linewidth() == 2}
    assert bold == {style.colour for style in look.values()}


def test_the_mean_line_is_the_mean_of_finished_seeds() -> None:
    from eval.report.figures import axes

    view = frames.evaluations(world(Path("x"), failed=[("ppo", 0)]))
    rows = view.paths[view.paths["arm"] == "ppo"]
    mean = axes.mean_path(rows, "updates", "reward/judge")
    finished = rows[rows["seed"] != 0].groupby("point")["reward/judge"].mean()
    assert np.allclose(mean["y"], finished)


def test_an_algorithm_has_one_colour_whoever_is_beside_it() -> None:
    alone = theme.styles({"mine": "ppo"})["mine"]
    among = theme.styles({"a": "reinforce", "mine": "ppo", "c": "dpo", "d": "grpo"})["mine"]
    assert alone == among
    assert theme.styles({"x": "PPO"})["x"].colour == alone.colour


def test_an_arm_keeps_its_look_when_arms_are_added() -> None:
    before = theme.styles(dict(itertools.islice(MANY.items(), 6)))
    after = theme.styles(MANY)
    assert all(after[arm] == style for arm, style in before.items())


@pytest.mark.parametrize(
    "arms", [MANY, {f"a{i}": "ppo" for i in range(12)}, {f"a{i}": f"new{i}" for i in range(12)}]
)
def test_arms_in_one_panel_look_different(arms: dict[str, str]) -> None:
    look = theme.styles(arms)
    groups = theme.panels(look)
    assert sorted(itertools.chain(*groups)) == sorted(arms)
    for group in groups:
        assert len(group) <= theme.PANEL_ARMS
        assert len({(look[arm].colour, look[arm].marker) for arm in group}) == len(group)


@pytest.mark.parametrize(("algorithm", "apart"), [*((name, 0.15) for name in ARMS), ("new", 0.09)])
def test_a_sweep_of_one_algorithm_has_four_shapes_and_four_shades(algorithm: str, apart: float) -> None:
    look = list(theme.styles({f"{algorithm}-{i}": algorithm for i in range(4)}).values())
    assert len({style.marker for style in look}) == 4
    assert sum(style.marker in "op8hH" for style in look) <= 1, "small, all of these are round"
    lightness = sorted(colorsys.rgb_to_hls(*to_rgb(style.colour))[1] for style in look)
    assert min(b - a for a, b in itertools.pairwise(lightness)) > apart


@functools.cache
def evaluated(name: str) -> frames.Evaluations:
    """Of one seed where arms are many: what is asked of it is the same of all."""
    return frames.evaluations(world(Path("x"), MANY, 1) if name == "many" else WORLDS[name]())


@pytest.mark.parametrize("kl", [1e-9, 2e-5, 6e-4, 1e-3, 0.06, 0.3, 1.0, 5.5, 40.0, 144.0, 400.0, 1e5])
@pytest.mark.parametrize("name", ["typical", "many"])
def test_ticks_of_kl_are_several_and_apart_whatever_its_range(name: str, kl: float) -> None:
    """In two wide panels and in three narrow ones."""
    view = evaluated(name)
    paths = view.paths.assign(
        **{"kl/sequence": view.paths["kl/sequence"] * kl / view.paths["kl/sequence"].max()}
    )
    figure = kl_figures.reward_against_kl(paths, theme.styles(view.arms), view.base, {})
    figure.draw_without_rendering()
    for ax in figure.axes:
        check_ticks(name, ax)
        places = [tick**0.5 for tick in ax.get_xticks()]
        gaps = [b - a for a, b in itertools.pairwise(places)]
        assert len(gaps) >= (4 if name == "typical" else 2)
        assert max(gaps) < 2 * min(gaps), "about evenly spaced in √KL"


def test_arms_that_spend_very_differently_get_a_log_axis() -> None:
    view = frames.evaluations(world(Path("x")))
    look = theme.styles(view.arms)
    paths = view.paths.copy()
    paths.loc[paths["arm"] == "dpo", "flops"] /= 100
    scales = [ax.get_xscale() for ax in figures.learning_curves(paths, look, view.base).axes]
    assert scales == ["linear", "linear", "log", "linear"]


def test_spending_nobody_measured_has_no_panel() -> None:
    view = frames.evaluations(world(Path("x")))
    paths = view.paths.assign(seconds=np.nan)
    assert len(figures.learning_curves(paths, theme.styles(view.arms), view.base).axes) == 3


def test_diagnostics_show_only_what_was_logged() -> None:
    events = world(Path("x")).events
    assert "clip_fraction" in diagnostics.logged(events[events["algorithm"] == "ppo"])
    assert "clip_fraction" not in diagnostics.logged(events[events["algorithm"] == "dpo"])
    assert "fraction" not in diagnostics.logged(events)


def test_a_spike_in_a_maximum_is_not_averaged_away() -> None:
    events = world(Path("x"), {"ppo": "ppo"}, 1).events.assign(ratio_max=1.0)
    events.loc[77, "ratio_max"] = 50.0
    figure = diagnostics.figure(events, theme.styles({"ppo": "ppo"}), ["ratio_max"])
    assert max(max(line.get_ydata()) for line in figure.axes[0].lines) == 50.0


def test_arms_of_a_sweep_have_different_names_in_figures() -> None:
    """Endings alone do not tell arms of two settings apart."""
    arms = [f"ppo-beta-{beta}-clip-range-{clip}" for beta in (0.05, 0.2) for clip in (0.1, 0.2)]
    short = theme.names(arms, 22)
    assert len(set(short)) == 4
    assert max(map(len, short)) < max(map(len, arms))
    assert theme.names(["dpo", "_x", "seventeen letters"], 10) == ["dpo", " _x", "seve…tters"]
    assert theme.names([]) == []


def test_the_mean_of_diagnostics_ends_where_half_of_the_seeds_do() -> None:
    """A budget in FLOPs lets a seed of short responses go on alone: its path is not the mean's."""
    rows = [
        {"arm": "ppo", "seed": seed, "updates": float(update), "kl/train": 8.0 if seed == 2 else 2.0}
        for seed, last in enumerate((100, 110, 300))
        for update in range(1, last + 1)
    ]
    figure = diagnostics.figure(pd.DataFrame(rows), theme.styles({"ppo": "ppo"}), ["kl/train"])
    *seeds, mean = figure.axes[0].lines
    assert [round(max(line.get_xdata()), -1) for line in seeds] == [100, 110, 300]
    assert 100 <= max(mean.get_xdata()) <= 115
    assert max(mean.get_ydata()) <= 5.01  # of two seeds, one of which is at 8


def test_a_win_rate_that_may_be_a_half_is_grey_and_marked() -> None:
    """The eye takes a colour for an answer. Without an interval, as of one seed, the number is all there is."""
    rates = {
        ("ppo", "base"): Estimate(0.8, 0.75, 0.85, 3),
        ("base", "ppo"): Estimate(0.2, 0.15, 0.25, 3),
        ("dpo", "base"): Estimate(0.7, 0.3, 1.1, 3),
        ("base", "dpo"): Estimate(0.3, -0.1, 0.7, 3),
        ("ppo", "dpo"): Estimate(0.6, np.nan, np.nan, 1),
    }
    [ax, _] = heat_map(rates, ["ppo", "dpo"]).axes
    shown = {text.get_position(): text for text in ax.texts}
    assert {place: text.get_text() for place, text in shown.items()} == {
        (0.5, 1.5): "0.80", (1.5, 0.5): "0.20", (0.5, 2.5): "0.70 ±", (2.5, 0.5): "0.30 ±", (2.5, 1.5): "0.60",
    }  # fmt: skip
    grey = {patch.get_xy() for patch in ax.patches if patch.get_facecolor() == to_rgba(figures.UNDECIDED)}
    assert grey == {(0, 2), (2, 0)}
    assert {shown[place].get_color() for place in [(0.5, 2.5), (2.5, 0.5)]} == {theme.MUTED}


@pytest.mark.parametrize(("base", "said"), [(0.1, "← base 0.1"), (2.0, "base 2 →"), (0.75, None)])
def test_a_base_beyond_the_axis_of_the_seeds_is_said_in_words(base: float, said: str | None) -> None:
    """An axis that reached it would leave the seeds no room; without a word nobody would know where it is."""
    ends = frames.evaluations(world(Path("x"))).ends
    ends = ends.assign(**{"reward/proxy": np.linspace(0.7, 0.8, len(ends))})
    figure = figures.every_seed(ends, theme.styles(ARMS), {"reward/proxy": base}, ["reward/proxy"])
    [ax] = figure.axes
    low, high = ax.get_xlim()
    assert 0.5 < low < 0.7 < 0.8 < high < 1
    dotted = [line for line in ax.lines if line.get_color() == theme.BASE_COLOUR]
    assert [text.get_text() for text in ax.texts] == ([said] if said else [])
    assert len(dotted) == (0 if said else 1)
