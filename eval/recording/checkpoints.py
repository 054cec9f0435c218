"""When a run's state is saved, and what goes with it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from algos.engine.state import TrainState
from eval.directory.runs import Run

MAX_SHARE = 0.02
"""Of the time that saving may take: where it takes long, it is done more seldom than asked for."""


@dataclass
class Checkpoints:
    """Saves a run's state every so many seconds (0: whenever asked). What a run comes to does not depend on it."""

    run: Run
    every: float
    cost: float = 0.0
    """Seconds the last save took."""
    last: float = field(default_factory=time.monotonic)

    @property
    def due(self) -> bool:
        pause = max(self.every, self.cost / MAX_SHARE) if self.every else 0.0
        return time.monotonic() - self.last >= pause

    def save(self, state: TrainState) -> None:
        """The state, and how far the files of rows have got."""
        start = time.monotonic()
        state.notes["rows"] = self.run.mark()
        state.save(self.run.checkpoints)
        self.last = time.monotonic()
        self.cost = self.last - start
