"""A run followed in TensorBoard or Weights & Biases, through accelerate's trackers, beside its own files."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias

from algos import UserError
from algos.engine.errors import one_line
from eval.escape import for_terminal

TrackerName: TypeAlias = Literal["tensorboard", "wandb"]
PROJECT = "rlhf-compare"  # in Weights & Biases, unless WANDB_PROJECT names another


class Tracker(Protocol):
    """What is needed of accelerate's trackers (`accelerate.tracking.GeneralTracker`)."""

    def start(self) -> None: ...

    def store_init_configuration(self, values: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, Any], step: int | None = None) -> None: ...

    def finish(self) -> None: ...


def require_trackers(names: Sequence[str]) -> None:
    """Raises UserError where a tracker's library is not installed."""
    for name in names:
        try:  # of what is installed, not of what can be imported: `wandb` leaves folders of its name about
            distribution(name)
        except PackageNotFoundError:
            raise UserError(
                f"--log-with {name} needs the package {name}, which is not installed. "
                f"Install it: pip install {name}"
            ) from None


class Trackers(AbstractContextManager["Trackers"]):
    """One tracker run for one run of a comparison, in every tracker that was asked for; closed at the end.

    `folder` is the comparison's, whose name groups its runs; `run` is the run's name, `<arm>-s<seed>`. All
    that is logged is in the run's own files too: a tracker that fails is given up with a line on standard
    error, and costs the run nothing else. The x axis (`step`) counts iterations.
    """

    def __init__(self, names: Sequence[str], folder: Path, run: str) -> None:
        self.names, self.folder, self.run = names, folder, run
        self.open: dict[str, Tracker] = {}

    def start(self, settings: Mapping[str, Any], iteration: int = 0) -> None:
        """Opens the trackers; `settings` (nested) are shown beside the run. A run that goes on from a
        checkpoint says from which iteration: what was logged after it is replaced."""
        plain = dict(_flat(settings))
        for name in self.names:
            self._try(name, partial(self._start, name, plain, iteration))

    def log(self, values: Mapping[str, float | None], iteration: int) -> None:
        """Numbers by the names they have everywhere; those that are not finite are left out."""
        numbers = {k: v for k, v in values.items() if v is not None and math.isfinite(v)}
        for name, tracker in list(self.open.items()):
            self._try(name, partial(tracker.log, numbers, step=iteration))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, tracker in list(self.open.items()):
            self._try(name, tracker.finish)
        self.open = {}

    def _start(self, name: str, settings: dict[str, Any], iteration: int) -> None:
        tracker = _MAKERS[name](self.folder, self.run, iteration)
        tracker.start()
        self.open[name] = tracker
        if iteration == 0:
            tracker.store_init_configuration(settings)

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # another program's trouble: a full disk, a server, a changed interface
            self.open.pop(name, None)
            said = for_terminal(one_line(error))
            print(f"{self.run} goes on without {name}, which failed: {said}", file=sys.stderr)


def _tensorboard(folder: Path, run: str, iteration: int) -> Tracker:
    """Event files in `<comparison>/tensorboard/<run>`."""
    from accelerate.tracking import TensorBoardTracker

    place = folder / "tensorboard"
    if iteration == 0:
        shutil.rmtree(place / run, ignore_errors=True)  # of an attempt that was not finished
    tracker: Tracker = TensorBoardTracker(run, place, purge_step=iteration + 1 if iteration else None)
    return tracker


def _wandb(folder: Path, run: str, iteration: int) -> Tracker:
    """A run in a group of the comparison's name, written to `<comparison>/wandb`.

    It stays on this machine unless WANDB_MODE says otherwise: `wandb sync` uploads it later.
    """
    from accelerate import PartialState
    from accelerate.tracking import WandBTracker

    PartialState()  # this tracker's own messages ask which process they come from
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_CONSOLE", "off")  # it would copy the terminal into its files
    digest = hashlib.blake2b(f"{folder.resolve()}/{run}".encode(), digest_size=8).hexdigest()
    tracker: Tracker = WandBTracker(
        os.environ.get("WANDB_PROJECT", PROJECT),
        name=run,
        group=folder.resolve().name,
        dir=str(folder),
        mode=os.environ.get("WANDB_MODE", "offline"),
        id=digest,
        resume="allow",
    )
    return tracker


_MAKERS: dict[str, Callable[[Path, str, int], Tracker]] = {"tensorboard": _tensorboard, "wandb": _wandb}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | float | bool]]:
    """Nested settings as dotted names; what is neither text, number nor truth value, as text."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value if isinstance(value, (str, int, float, bool)) else str(value)
