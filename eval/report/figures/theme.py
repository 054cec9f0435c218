"""One look for every figure: a colour, markers and line styles for each algorithm, the same everywhere.

Colours are Okabe and Ito's (2008), told apart under every common colour blindness; markers and dashes carry the same
information, so that a page printed in grey can still be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval import format as fmt
from eval.escape import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, FAINT = "#1f2328", "#6b7280", "#d7dae0"
BASE_COLOUR = "#6b7280"
PIXELS_PER_INCH = 112
PANEL_ARMS = 4  # more lines than this in one panel cannot be followed
_SHADES = (0.0, 0.58, -0.58, 0.32)  # towards white above 0, towards black below

Dash = tuple[int, tuple[float, ...]]
SOLID: Dash = (0, ())


@dataclass(frozen=True)
class Style:
    """How one arm is drawn everywhere."""

    algorithm: str
    colour: str
    marker: str
    dash: Any


@dataclass(frozen=True)
class _Family:
    """The looks of one algorithm's arms, the first arm's first."""

    colour: str
    markers: str
    dashes: tuple[Dash, ...]


_FAMILIES = {
    "reinforce": _Family("#0072B2", "od<P", (SOLID, (0, (12, 1.5)), (0, (16, 2, 2, 2)), (0, (8, 1)))),
    "ppo": _Family("#D55E00", "sD>P", ((0, (5, 2)), (0, (3, 1.2)), (0, (7, 3)), (0, (2, 1)))),
    "dpo": _Family("#009E73", "^vhP", ((0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2, 1, 2)))),
}  # fmt: skip
_DOTS: tuple[Dash, ...] = ((0, (1, 1.2)), (0, (1, 2)), (0, (1, 1, 3, 1)), (0, (2, 2)))
_SPARE = (
    _Family("#CC79A7", "XPD*", _DOTS),
    _Family("#E69F00", "P*Xh", _DOTS[::-1]),
    _Family("#56B4E9", "*XPd", _DOTS[1:] + _DOTS[:1]),
    _Family("#4d4d4d", "dX*P", _DOTS[2:] + _DOTS[:2]),
)


def styles(arms: Mapping[str, str]) -> dict[str, Style]:
    """Arm → algorithm to arm → Style. An arm keeps its look when others are added after it."""
    known = [algorithm.lower() for algorithm in arms.values()]
    spare = sorted({algorithm for algorithm in known if algorithm not in _FAMILIES})
    families = _FAMILIES | {name: _SPARE[i % len(_SPARE)] for i, name in enumerate(spare)}
    rounds = {
        name: i // len(_SPARE) for i, name in enumerate(spare)
    }  # colours used up: go on with other shades
    found = {}
    for position, (arm, algorithm) in enumerate(zip(arms, known, strict=True)):
        index = known[:position].count(algorithm) + rounds.get(algorithm, 0)
        family = families[algorithm]
        colour = _mixed(family.colour, _SHADES[index % len(_SHADES)])
        marker = family.markers[(index + index // 4) % len(family.markers)]
        found[arm] = Style(algorithm, colour, marker, family.dashes[index % len(family.dashes)])
    return found


def panels(look: Mapping[str, Style]) -> list[list[str]]:
    """Arms to draw together: all of a few; of many, at most `PANEL_ARMS` a panel, an algorithm's arms together."""
    if len(look) <= PANEL_ARMS + 1:
        return [list(look)]
    by_algorithm: dict[str, list[str]] = {}
    for arm, style in look.items():
        by_algorithm.setdefault(style.algorithm, []).append(arm)
    groups: list[list[str]] = []
    for arms in by_algorithm.values():
        for chunk in (arms[i : i + PANEL_ARMS] for i in range(0, len(arms), PANEL_ARMS)):
            if groups and len(groups[-1]) + len(chunk) <= PANEL_ARMS:
                groups[-1] += chunk
            else:
                groups.append(chunk)
    return groups


def names(arms: Iterable[str], limit: int = 26) -> list[str]:
    """The arms' names for a figure: of about `limit` characters, more where they would be alike otherwise."""
    whole = [visible(arm, keep="") for arm in arms]
    sizes = range(limit, max(map(len, whole), default=0) + 1)
    shown = next(
        (
            short
            for size in sizes
            if len(set(short := [fmt.shorten(name, size) for name in whole])) == len(set(whole))
        ),
        whole,
    )
    # A leading underscore would hide a name from matplotlib's legends.
    return [f" {name}" if name.startswith("_") else name for name in shown]


@contextmanager
def drawing() -> Iterator[None]:
    """Every figure is made and saved inside: fixed settings whatever the user's matplotlibrc, fixed SVG ids."""
    import matplotlib.style

    with matplotlib.style.context(["default", _SETTINGS]):
        yield


def save(figure: Figure, folder: Path, stem: str) -> None:
    """Write stem.svg and stem.png, without dates, so that the same figure is the same bytes.

    Laid out once and drawn twice: `Figure.savefig` would draw twice for each, to lay out again.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from PIL import Image

    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")
    FigureCanvasSVG(figure).print_svg(folder / f"{stem}.svg", metadata={"Date": None})
    figure.set_dpi(PIXELS_PER_INCH)
    pixels = FigureCanvasAgg(figure)
    pixels.draw()
    # A palette: a third of the size, and nothing to be seen of it in lines and letters.
    image = Image.fromarray(np.asarray(pixels.buffer_rgba())).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(folder / f"{stem}.png", optimize=True)


def _mixed(colour: str, shade: float) -> str:
    """Towards white for a shade above 0, towards black below."""
    target = 255 if shade > 0 else 0
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(c + (target - c) * abs(shade)):02x}" for c in channels)


_SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "rlhf-compare",
    "svg.fonttype": "path",
    "text.parse_math": False,  # a "$" in an arm's name is a dollar
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa1ab",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8ec",
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 3.4,
    "lines.linewidth": 1.8,
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
}
