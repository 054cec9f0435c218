"""Numbers as people read them: few digits, one minus sign, k and M, powers of ten."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence

from eval.glossary import METRICS, TRAINING
from eval.stats import Estimate

MISSING = "–"
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_COUNTED = ("completions", "pairs", "updates", "count")
_ABRIDGED = 9_999.5  # from here on a count is written with k and M
_LONG = 1e6  # from here on decimals say nothing
_HUGE = 1e12  # and from here on digits one by one: such a number is written in powers of ten


def power(exponent: int) -> str:
    """10 raised to `exponent`, in Unicode so that it needs no markup: 10¹²."""
    return "10" + str(exponent).translate(_SUPERSCRIPT)


def decimals_for(values: Iterable[float]) -> int:
    """Decimals that give a column of numbers about three significant digits at its largest; what has no decimals, from a
    million on, does not take the others'."""
    plain = [abs(v) for v in values if abs(v) < _HUGE]
    largest = max((size for size in plain if size < _LONG), default=_LONG if plain else 0.0)
    if largest == 0:
        return 3
    magnitude = math.floor(math.log10(largest))
    if magnitude >= -1:
        return max(0, 3 - max(0, magnitude))
    return min(8, 2 - magnitude)


def reward_decimals(rewards: Iterable[float]) -> int:
    """Decimals of rewards and their differences, in sentences and tables, by the size of the rewards: three, of small ones as many
    as a column of them has."""
    return max(3, decimals_for(rewards))


def number(value: float, decimals: int, signed: bool = False) -> str:
    """Fixed decimals, thousands separated, a true minus sign; huge ones in powers of ten; a dash for nan."""
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    text = _powers(size) if size >= _HUGE else f"{size:,.{decimals if size < _LONG else 0}f}"
    negative = value < 0 and any(digit in "123456789" for digit in text)
    return ("−" if negative else "+" if signed else "") + text


def distinct(values: Sequence[float]) -> list[str]:
    """Each as `compact`, with as many more digits as it takes to round none by a tenth of what lies between two of them:
    5.9155, 5.916."""
    gap = min((b - a for a, b in itertools.pairwise(sorted(set(values)))), default=math.inf)

    def rounded(value: float, digits: int) -> float:
        return abs(float(f"{value:.{digits}g}") - value)

    enough = (n for n in range(3, 16) if all(rounded(value, n) <= gap / 10 for value in values))
    digits = next(enough, 16)
    return [compact(value, digits) for value in values]


def compact(value: float, digits: int = 3) -> str:
    """Three significant digits, or so many, with k, M or a power of ten: 1.2k, 3.4M, 5.60×10¹²."""
    if not math.isfinite(value):
        return number(value, 0)
    sign, size = ("−" if value < 0 else ""), abs(value)
    if size >= 1e9:
        return sign + _powers(size, digits)
    for limit, letter in ((999_500, "M"), (999.5, "k")):
        if size >= limit:
            return f"{sign}{_significant(size / (1e6 if letter == 'M' else 1e3), digits)}{letter}"
    if size and size < 1e-3:
        exponent = math.floor(math.log10(size))
        return f"{sign}{_significant(size / 10.0**exponent, digits)}×{power(exponent)}"
    return sign + _significant(size, digits)


def duration(seconds: float) -> str:
    """3.2 s, 4 min 05 s, 2 h 10 min."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def p_value(p: float) -> str:
    if math.isnan(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def with_interval(estimate: Estimate, decimals: int, signed: bool = False) -> tuple[str, str]:
    """(mean, "[low, high]"), the latter empty where there is no interval."""
    bounds = ", ".join(number(bound, decimals) for bound in (estimate.low, estimate.high))
    return number(estimate.mean, decimals, signed), f"[{bounds}]" if estimate.has_interval else ""


def with_width(estimate: Estimate, decimals: int) -> tuple[str, str]:
    """(mean, "± half width"), the latter empty where there is no interval."""
    half = f"± {number(estimate.half_width, decimals)}" if estimate.has_interval else ""
    return number(estimate.mean, decimals), half


def span(ordered: Sequence[str]) -> str:
    """Numbers in order, as they print: the first to the last, or the one that all print as."""
    return " to ".join(dict.fromkeys([*ordered[:1], *ordered[-1:]]))


def column(estimates: Sequence[Estimate], unit: str) -> list[tuple[str, str]]:
    """One table column: (mean, "± half width" or "") for each estimate, with decimals shared down the column but for those
    whose half width they would round to nothing."""
    if unit == "FLOPs":
        return [_in_powers(estimate) for estimate in estimates]
    if unit in _COUNTED:
        return [_count(estimate) for estimate in estimates]
    decimals = decimals_for(e.mean for e in estimates)
    shared = [_decimals(e, decimals) for e in estimates]
    # What has no width of its own, as the base, is what the others are compared with: to their finest digit.
    own = [s if e.has_interval else max(shared) for e, s in zip(estimates, shared, strict=True)]
    return [
        _in_powers(e) if abs(e.mean) >= _HUGE else with_width(e, d)
        for e, d in zip(estimates, own, strict=True)
    ]


def _count(estimate: Estimate) -> tuple[str, str]:
    """A mean count and its half width, both abridged or neither."""
    size = abs(estimate.mean)

    def write(value: float) -> str:
        in_full = size < _ABRIDGED and value >= (10 if size >= 999.5 else 999.5)
        return number(value, 0) if in_full else compact(value)

    return write(estimate.mean), f"± {write(estimate.half_width)}" if estimate.has_interval else ""


def label(metric: str) -> str:
    """The glossary's label; a metric it does not know is shown by its own name."""
    known = METRICS.get(metric) or TRAINING.get(metric)
    return known.label if known else metric.replace("_", " ").replace("/", ", ")


def unit(metric: str) -> str:
    known = METRICS.get(metric) or TRAINING.get(metric)
    return known.unit if known else ""


def bounds(metric: str) -> tuple[float, float]:
    """The least and the most that a metric can be."""
    known = METRICS.get(metric) or TRAINING.get(metric)
    return known.bounds if known else (-math.inf, math.inf)


def shown_unit(metric: str) -> str:
    """The unit where it tells more than the label: a reward is in nothing but reward."""
    return "" if unit(metric) == "reward" else unit(metric)


def titled(metric: str) -> str:
    """Label with its unit in brackets, for axes: "KL to reference [nats]"."""
    known = shown_unit(metric)
    return f"{label(metric)} [{known}]" if known else label(metric)


def in_powers(text: str) -> str:
    """Numbers as computers write them, 5e11, as the tables do: 5×10¹¹."""
    return re.sub(r"\b(\d[\d.]*)e([+-]?\d{1,3})\b", lambda found: f"{found[1]}×{power(int(found[2]))}", text)


def moment(text: str) -> str:
    """An ISO time as "2026-01-02 03:08 UTC"; any other text as it is."""
    from datetime import datetime

    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".strip()


def listing(items: Sequence[str], limit: int = 4, link: str = "and") -> str:
    """a, b `link` c; beyond `limit` the rest is counted."""
    limit += len(items) == limit + 1  # "and 1 more" is no shorter than its name
    shown = list(items[:limit])
    if len(items) > limit:
        shown.append(f"{len(items) - limit} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {link} {shown[-1]}" if shown else ""


def counted(count: int, what: str) -> str:
    """1 prompt, 2 prompts."""
    return f"{count} {what}{'s' * (count != 1)}"


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters; what is cut is cut from the middle, so that endings still tell names apart."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def _decimals(estimate: Estimate, shared: int) -> int:
    """As many as the column's, or as show the half width at all."""
    half = estimate.half_width if estimate.has_interval else 0.0
    return -math.floor(math.log10(half)) if 1e-8 <= half < 0.5 * 10.0**-shared else shared


def _in_powers(estimate: Estimate) -> tuple[str, str]:
    """Mean and half width in the same power of ten, so that they compare at a glance, unless they are powers apart."""
    if not math.isfinite(estimate.mean) or abs(estimate.mean) < _LONG:
        return compact(estimate.mean), f"± {compact(estimate.half_width)}" if estimate.has_interval else ""
    exponent = _exponent(abs(estimate.mean))
    mean = f"{number(estimate.mean / 10.0**exponent, 2)}×{power(exponent)}"
    if not estimate.has_interval:
        return mean, ""
    half = estimate.half_width / 10.0**exponent
    far = half >= 1000
    return mean, f"± {_powers(estimate.half_width) if far else f'{number(half, 2)}×{power(exponent)}'}"


def _powers(size: float, digits: int = 3) -> str:
    """5.60×10¹² of a size above 0."""
    exponent = _exponent(size)
    return f"{size / 10.0**exponent:.{digits - 1}f}×{power(exponent)}"


def _exponent(size: float) -> int:
    """Of the power of ten that leaves a mantissa from 1.00 to 9.99."""
    exponent = math.floor(math.log10(size))
    return exponent + (round(size / 10.0**exponent, 2) >= 10)


def _significant(size: float, digits: int) -> str:
    """So many significant digits without trailing zeros."""
    if size == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    text = f"{size:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(share: float) -> str:
    """A whole number of percent; of less than half a percent that it is less than one."""
    return "less than 1%" if 0 < share < 0.005 else f"{100 * share:.0f}%"
