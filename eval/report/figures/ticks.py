"""Ticks: their labels, in one notation an axis; and where those of a √ axis stand, round numbers about evenly spaced in
√x, as many as their labels leave room for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval import format as fmt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import Locator

MOST = 7  # beside the one at 0
GAP = 0.8  # of an even step in √x: the least between two ticks
LINEAR = 70  # ticks that differ by a larger factor, 0 aside, are of a logarithmic axis
CHARACTER, SPACE = 5.2, 6.0  # points: the widest character of a tick's label, and between two labels


def labels(values: Sequence[float]) -> list[str]:
    """As `fmt.distinct` where that has one notation or has none but k and M; where it would mix powers of ten with
    decimals, or with other powers, the same for all: decimals, one power, or on a logarithmic axis a power each."""
    shown = fmt.distinct(values)
    powers = {text.partition("10")[2] if "×10" in text else "" for text in shown if text != "0"}
    if len(powers) < 2:
        return shown
    sizes = [abs(value) for value in values if value]
    exponent = math.floor(math.log10(max(sizes)))
    if max(sizes) > LINEAR * min(sizes):
        return [_in_power(value, math.floor(math.log10(abs(value)))) if value else "0" for value in values]
    if -3 <= exponent < 0:
        return _decimals(values)
    return [
        f"{text}×{fmt.power(exponent)}" if text != "0" else text
        for text in _decimals([v / 10.0**exponent for v in values])
    ]


def _in_power(value: float, exponent: int) -> str:
    """5×10⁻⁴; of a power itself, 10⁻⁴."""
    (mantissa,) = _decimals([round(value / 10.0**exponent, 6)])
    return fmt.power(exponent) if mantissa == "1" else f"{mantissa}×{fmt.power(exponent)}"


def _decimals(values: Sequence[float]) -> list[str]:
    """Each with as many decimals as it takes to round none by a tenth of what lies between two of them."""
    ordered = sorted({0.0, *values})
    gap = min((b - a for a, b in itertools.pairwise(ordered)), default=0.0)
    enough = (n for n in range(15) if all(abs(round(value, n) - value) <= gap / 10 for value in values))
    decimals = next(enough, 15)
    texts = [fmt.number(value, decimals) for value in values]
    return [text.rstrip("0").rstrip(".") if "." in text else text for text in texts]


def root_locator(ax: Axes) -> Locator:
    """For an x axis that begins at 0."""
    from matplotlib.ticker import Locator

    class RootLocator(Locator):
        def __call__(self) -> list[float]:
            return self.tick_values(*ax.get_xlim())

        def tick_values(self, vmin: float, vmax: float) -> list[float]:
            figure = ax.get_figure(root=True)
            assert figure is not None
            return fitting(max(vmin, vmax), ax.bbox.width * 72 / figure.dpi)

    return RootLocator()


def fitting(furthest: float, width: float) -> list[float]:
    """As many round steps up to `furthest` as an axis `width` points wide has room to label."""
    if not 0 < furthest < math.inf:
        return [0.0]
    return next(
        (
            found
            for count in range(MOST, 1, -1)
            if _fit(found := round_steps(furthest, count), furthest, width)
        ),
        [0.0],
    )


def _fit(ticks: Sequence[float], furthest: float, width: float) -> bool:
    places = [width * math.sqrt(tick / furthest) for tick in ticks]
    halves = [CHARACTER * len(text) / 2 for text in labels(ticks)]
    boxes = zip(places, halves, strict=True)
    return all(b - a >= half_a + half_b + SPACE for (a, half_a), (b, half_b) in itertools.pairwise(boxes))


def round_steps(furthest: float, count: int) -> list[float]:
    """0 and about `count` round numbers up to `furthest`, each two of them GAP to about 1.4 even steps of √x apart.

    400, 6 → 0, 10, 40, 100, 200, 300, 400.
    """
    found, step = [0.0], math.sqrt(furthest) / count
    while True:
        before = math.sqrt(found[-1])
        least = (before + GAP * step) ** 2
        if least > furthest:
            return found
        value = _roundest(least, (before + step) ** 2, (before + 1.4 * step) ** 2)
        if value > furthest:
            return found
        found.append(value)


def _roundest(low: float, middle: float, high: float) -> float:
    """The number of the fewest digits between low and high, its last one best 0 or 5, then 2; of several the nearest to
    the middle."""
    size = 10.0 ** math.floor(math.log10(high))
    while True:
        for unit in (size, size / 2, size / 5):
            nearest = min(max(round(middle / unit), math.ceil(low / unit)), math.floor(high / unit))
            if low <= nearest * unit <= high:
                return float(f"{nearest * unit:.12g}")
        size /= 10
