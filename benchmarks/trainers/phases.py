"""Where a step of ours goes: the engine's functions timed from outside. The one module that knows their names."""

from __future__ import annotations

import functools
import importlib
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from benchmarks.trainers.gate import synchronise

SAMPLING, REWARD, REFERENCE, OLD, UPDATE = (
    "sampling",
    "reward",
    "reference",
    "old log-probabilities and values",
    "update",
)
ENGINE = [
    (SAMPLING, "algos.engine.batches.sampled", "sample"),
    (REWARD, "algos.engine.batches.sampled", "score"),
    (REFERENCE, "algos.engine.scoring", "score_reference"),
    (OLD, "algos.engine.scoring", "score_policy"),
    (UPDATE, "algos.engine.loop", "Loop._first_forward"),
    (UPDATE, "algos.engine.loop", "Loop._step"),
]
"""(phase, module, name in it): a name is replaced where it is looked up when it is called. Of functions that call
each other the outer one is timed."""
ONCE = [(REFERENCE, "algos.engine.batches.sources", "reference_logps")]
"""Of recorded pairs: before the first step, for all of them."""


class Stopwatch:
    """Seconds spent in each timed function, by phase, those that it calls among them included."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.inside = False

    @classmethod
    def of_engine(cls, algorithm: str, everything: bool) -> Stopwatch:
        """Every phase, or only what a step owes without showing it: DPO's pass over all pairs before the first."""
        watch = cls()
        for phase, module, name in (ONCE if algorithm == "dpo" else []) + (ENGINE if everything else []):
            watch.watch(phase, importlib.import_module(module), name)
        return watch

    def watch(self, phase: str, module: Any, name: str) -> None:
        """Times `module.name`, which may be a method."""
        *owners, last = name.split(".")
        owner = functools.reduce(getattr, owners, module)
        function: Callable[..., Any] = getattr(owner, last)

        @functools.wraps(function)
        def timed(*args: Any, **keywords: Any) -> Any:
            if self.inside:
                return function(*args, **keywords)
            synchronise()
            self.inside, start = True, time.perf_counter()
            try:
                return function(*args, **keywords)
            finally:
                synchronise()
                self.inside = False
                self.spent[phase] += time.perf_counter() - start

        setattr(owner, last, timed)

    def taken(self) -> dict[str, float]:
        """What was spent since the last call."""
        spent, self.spent = self.spent, defaultdict(float)
        return dict(spent)
