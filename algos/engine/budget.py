"""What a run may spend and what it has spent, in every unit at once."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from algos.engine.errors import UserError

UNITS = ("updates", "iterations", "completions", "generated_tokens", "trained_tokens", "flops", "seconds")
_SUFFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_SYNONYMS = {"": "completions", "s": "seconds", "min": "minutes", "h": "hours"}
_SECONDS = {"minutes": 60.0, "hours": 3600.0}


@dataclass(frozen=True)
class Budget:
    """An amount of one unit. A run stops at the end of the iteration that reaches it."""

    amount: float
    unit: str = "completions"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UserError(f"unknown budget unit {self.unit!r}. Use one of {', '.join(UNITS)}.")
        if not 0 < self.amount < float("inf"):
            raise UserError(f"a budget must be above 0 and finite; got {self.amount:g} {self.unit}.")

    @classmethod
    def parse(cls, text: str | Budget) -> Budget:
        """`300updates`, `2e15flops`, `90s`, `20k`: a number, k/M/G/T/P, a unit; completions where none is named."""
        if isinstance(text, Budget):
            return text
        match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([kKMGTP]?)\s*([a-z_]*)\s*", str(text))
        if match is None or match[1].count(".") > 1 or match[1] == ".":
            raise UserError(
                f"cannot read the budget {text!r}. Write a number and a unit, such as 300updates, 20k, 2e15flops or 90s."
            )
        unit = _SYNONYMS.get(match[3], match[3])
        return cls(
            float(match[1]) * _SUFFIXES[match[2]] * _SECONDS.get(unit, 1.0),
            "seconds" if unit in _SECONDS else unit,
        )

    @property
    def told(self) -> str:
        """As people say it: 512 completions, 8 updates, 5e11 FLOPs."""
        whole = self.amount < 1e6 and self.amount == int(self.amount)
        amount = f"{self.amount:,.0f}" if whole else f"{self.amount:g}".replace("e+", "e")
        unit = "FLOPs" if self.unit == "flops" else self.unit.replace("_", " ")
        return f"{amount} {unit.removesuffix('s') if self.amount == 1 else unit}"

    def __str__(self) -> str:
        """What `parse` reads as the same budget."""
        short = f"{self.amount:g}"
        return (short if float(short) == self.amount else repr(self.amount)) + self.unit


@dataclass
class Meter:
    """Counts of one run. FLOPs are nominal, independent of the implementation: docs/metrics.md."""

    updates: int = 0
    iterations: int = 0
    completions: int = 0
    generated_tokens: int = 0
    trained_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    reward_calls: int = 0
    preparation: float = 0.0
    """Of the seconds, those before the first iteration, in which the reference reads recorded pairs. No budget counts
    them: they depend on whether another run has left what it read in the cache."""

    def spent(self, budget: Budget | None) -> float:
        """The fraction of the budget spent; 0 without one."""
        if budget is None:
            return 0.0
        spent: float = getattr(self, budget.unit)
        return (spent - self.preparation if budget.unit == "seconds" else spent) / budget.amount

    def charge(self, parameters: int, tokens: int, factor: int = 2) -> None:
        """`factor` FLOPs a parameter and token: 2 forward, 6 forward and backward (Kaplan et al. 2020)."""
        self.flops += float(factor) * parameters * tokens

    @contextmanager
    def running(self) -> Iterator[None]:
        """Adds the wall-clock time of the block to `seconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """As `running`, for what no budget counts."""
        start = self.seconds
        with self.running():
            yield
        self.preparation += self.seconds - start

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    def logged(self) -> dict[str, float]:
        """What each iteration's row says: all but the preparation, of which every row would say the same."""
        return {name: value for name, value in self.as_dict().items() if name != "preparation"}
