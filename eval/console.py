"""What the user sees while a comparison runs: bars on a terminal, plain lines elsewhere.

Names, messages and what models wrote are shown as text: nothing in them is markup or drives the terminal.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from eval.escape import for_terminal
from eval.format import duration
from eval.process.jobs import Job


class Console:
    """Stages, runs and time left, on standard error; results go to standard output."""

    def __init__(self) -> None:
        self.progress_to = RichConsole(stderr=True)
        self.out = RichConsole()
        if not self.out.is_terminal:
            self.out.width = 120  # a file has no width; tables should not be squeezed into 80 columns
        self.started = time.monotonic()

    @property
    def interactive(self) -> bool:
        return self.progress_to.is_terminal

    def say(self, text: str) -> None:
        """A line about what happens, with the time since the start when it is not a terminal."""
        stamp = "" if self.interactive else f"[{time.monotonic() - self.started:6.1f} s] "
        self.progress_to.print(_shown(stamp + text), soft_wrap=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A step before or after the runs."""
        start = time.monotonic()
        if self.interactive:
            with self.progress_to.status(_shown(name)):
                yield
        else:
            yield
        self.say(f"{name}: {time.monotonic() - start:.1f} s")

    @contextmanager
    def runs(self, count: int) -> Iterator[RunProgress]:
        """Progress over `count` runs."""
        progress = RunProgress(self, count)
        if not self.interactive:
            yield progress
            return
        with progress.bars:
            yield progress

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """A table on standard output; numbers are aligned on the right."""
        table = Table(title=_shown(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for i, column in enumerate(columns):
            numeric = i > 0 and all(row[i][:1] in "0123456789−–-" for row in rows)
            table.add_column(_shown(column), justify="right" if numeric else "left", no_wrap=i == 0)
        for row in rows:
            table.add_row(*map(_shown, row))
        self.out.print(table)


class RunProgress:
    """One bar for all runs and one for each that is going on; a plain line as each one ends."""

    def __init__(self, console: Console, count: int) -> None:
        self.console, self.count, self.done = console, count, 0
        self.began = time.monotonic()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[words]}", markup=False),
        )
        self.bars = Progress(
            *columns,
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console.progress_to,
            transient=True,
        )
        self.total = self.bars.add_task("runs", total=count, words="")
        self.going: dict[str, tuple[TaskID, float]] = {}
        self.fractions: dict[str, float] = {}

    def update(self, job: Job, fraction: float, words: str) -> None:
        """As `eval.process.jobs.Update`: at a job's end `words` is its status."""
        name = job.name
        if name not in self.going:
            self.going[name] = (self.bars.add_task(for_terminal(name), total=100, words=""), time.monotonic())
        bar, start = self.going[name]
        self.fractions[name] = fraction
        self.bars.update(bar, completed=round(100 * fraction), words=for_terminal(words))
        if words in ("done", "failed") and fraction >= 1:
            self.done += 1
            self.bars.remove_task(bar)
            took = f"{words} in {time.monotonic() - start:.1f} s"
            self.console.say(f"run {self.done} of {self.count}, {name}: {took}{self._left()}")
        self.bars.update(self.total, completed=sum(self.fractions.values()))

    def _left(self) -> str:
        """At the rate up to now: runs go seed by seed, so that what is left is made of the same arms as what is done."""
        done = sum(self.fractions.values())
        if self.done in (0, self.count):
            return ""
        left = (time.monotonic() - self.began) * (self.count - done) / done
        return f"; about {duration(left)} left"


def _shown(text: str) -> Text:
    """Not a plain string, in which rich would look for its markup and emoji."""
    return Text(for_terminal(text))
