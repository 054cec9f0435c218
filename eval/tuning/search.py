"""What tuning may try, declared in one place: a range or some choices for a setting, by algorithm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args, get_type_hints

from algos import Algorithm, UserError
from algos.engine.algorithm import require
from eval.settings.layers import build, suggestion
from eval.settings.limits import CORNERS, at_most


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included, evenly spread over them or over their logarithms."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        require(
            -math.inf < self.low < self.high < math.inf, "low", "below high", f"{self.low:g} … {self.high:g}"
        )
        require(self.low > 0 or not self.log, "low", "above 0 on a log scale", self.low)

    def __contains__(self, value: Any) -> bool:
        return bool(self.low <= value <= self.high)

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.low, self.high


@dataclass(frozen=True)
class Choices:
    """Some values without an order."""

    choices: tuple[bool | int | float | str | None, ...]

    def __post_init__(self) -> None:
        require(len(self.choices) >= 2, "choices", "at least 2", len(self.choices))

    def __contains__(self, value: Any) -> bool:
        return value in self.choices

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.choices


Space = dict[str, Range | Choices]
"""By setting, what may be tried."""


@dataclass(frozen=True)
class Around:
    """On a log scale, from the arm's own setting divided by `factor` to it times `factor`."""

    factor: float

    def of(self, value: Any, whole: bool) -> Range | None:
        """Of whole numbers where the setting takes no others. A setting that is 0 has no surroundings on a log scale: it
        stays 0."""
        if value == 0:
            return None
        low, high = value / self.factor, value * self.factor
        if whole:
            return Range(max(1, round(low)), max(2, round(high)), log=True)
        return Range(three_digits(low), three_digits(high), log=True)


SHARED: Mapping[str, Around | Choices] = {"learning_rate": Around(10), "beta": Around(10)}
"""Searched for every algorithm."""

OWN: Mapping[str, Mapping[str, Around | Choices]] = {
    "reinforce": {"baseline": Choices(("leave_one_out", "batch_mean", "ema"))},
    "ppo": {"ppo_epochs": Around(4)},
    "dpo": {"epochs": Around(4)},
}
"""Searched besides: one more each, so that no algorithm has more to choose from than another. (DPO that samples its own
pairs makes no epochs over any: it has none more.)"""


def space(
    arm: Algorithm, asked: Mapping[str, Mapping[str, Any]] | None, fixed: Collection[str], where: str
) -> Space:
    """What tuning may try for one arm.

    Args:
        arm: the algorithm with the settings it begins with; every range must hold them, as they are tried first.
        asked: `{setting: {low, high, log}}` or `{setting: {choices: […]}}`, instead of what is declared here.
        fixed: settings that are not searched.
        where: whose space it is, for messages.

    Raises UserError for an unknown setting, one that the algorithm would refuse, and where nothing is left.
    """
    found = (
        _declared(arm) if asked is None else {name: _read(arm, name, asked[name], where) for name in asked}
    )
    found = {name: values for name, values in found.items() if name not in fixed}
    if not found:
        raise UserError(
            f"nothing is left to tune of {where}: it sets {', '.join(fixed)} itself. Leave it out of algos, or name "
            f"other settings under search.{where}."
        )
    for name, values in found.items():
        if getattr(arm, name) not in values:
            raise UserError(
                f"search.{where}.{name} must hold {getattr(arm, name)}, the setting that {where} begins with and that is "
                f"tried first; got {' … '.join(map(str, values.ends))}. Widen it, or begin with another setting."
            )
    for corner in corners(arm, found, where):
        if corner.needs.source != arm.needs.source:
            raise UserError(
                f"search.{where} would change what {where} learns from ({arm.needs.source} or {corner.needs.source}). "
                "Compare the two as variants."
            )
    return found


def name_of(arm: str, number: int) -> str:
    """The arm that a try is in the comparison of tries."""
    return f"{arm}-try-{number}"


def corners(arm: Algorithm, found: Space, where: str) -> Iterator[Algorithm]:
    """The arm at every combination of ends and choices. Raises UserError where the algorithm refuses one, and where
    there are too many to be looked at."""
    count = math.prod(len(each.ends) for each in found.values())
    at_most(count, CORNERS, f"the number of combinations of ends and choices of search.{where}")
    for values in itertools.product(*(each.ends for each in found.values())):
        settings = dict(zip(found, values, strict=True))
        yield build(type(arm), {**asdict(arm), **settings}, f"search.{where}")


def is_integer(arm: Algorithm, name: str) -> bool:
    """Whether a setting takes whole numbers alone; its value may be one where others could stand, too."""
    return get_type_hints(type(arm))[name] is int


def three_digits(value: float) -> float:
    """Rounded to three significant digits: settings that can be read and typed."""
    return float(f"{value:.3g}")


def _declared(arm: Algorithm) -> Space:
    found: Space = {}
    for name, rule in {**SHARED, **OWN.get(arm.name, {})}.items():
        current = getattr(arm, name)
        if arm.needs.source == "prompts" and name in arm.pair_settings:
            continue
        if isinstance(rule, Choices):
            choices = tuple(_allowed(arm, name, dict.fromkeys((current, *rule.choices))))
            if len(choices) > 1:
                found[name] = Choices(choices)
        elif around := rule.of(current, is_integer(arm, name)):
            found[name] = around
    return found


def _allowed(arm: Algorithm, name: str, choices: Iterable[Any]) -> Iterator[Any]:
    """Those that go with the arm's other settings."""
    for choice in choices:
        with suppress(UserError):
            yield getattr(replace(arm, **{name: choice}), name)


def _read(arm: Algorithm, name: str, asked: Mapping[str, Any], where: str) -> Range | Choices:
    place, known = f"search.{where}.{name}", [setting.name for setting in fields(arm)]
    if name not in known:
        raise UserError(f"unknown setting {place!r}{suggestion(name, known)} Known here: {', '.join(known)}.")
    found: Range | Choices = build(Choices if "choices" in asked else Range, asked, place)
    if isinstance(found, Range):
        hint = get_type_hints(type(arm))[name]
        if hint is not int and hint is not float and float not in get_args(hint):
            raise UserError(f"{place} is not a number, so it has no range. Write {{choices: […]}}.")
        if is_integer(arm, name):
            require(
                all(end == int(end) for end in found.ends),
                f"{place} low and high",
                "whole numbers",
                found.ends,
            )
            return Range(int(found.low), int(found.high), found.log)
    return found
