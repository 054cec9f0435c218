"""Jobs: pieces of work that this process or another can do, and what is said of them meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[float, str], bool]
"""Told by a job the fraction of it that is done and a few words; False: the user wants it to stop, which it does by
saving what is to be kept and returning the status `stopped`."""


@dataclass(frozen=True)
class Job:
    """A piece of work that any process can do: it writes its result to disk and returns how it ended."""

    name: str
    work: Callable[[Progress], str]
    """Picklable: a function of a module, its arguments bound by `functools.partial`. Returns a status in a word."""
    died: Callable[[str], str]
    """Called here, with the cause, where the process that did the work died; returns the status, or raises."""


Update = Callable[[Job, float, str], None]
"""Told of a job: the fraction done and a few words; at its end 1.0 and its status."""
