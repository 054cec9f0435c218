"""What environment.json tells of the session that is going on."""

from __future__ import annotations

import datetime
from typing import Any

from algos.engine.storage import write_json
from eval import sessions
from eval.process.jobs import Job
from eval.process.measure import environment
from eval.store import Store


class Session:
    """Written as it begins, with every run that it gets to, and as it ends: also what a kill leaves is true."""

    def __init__(self, store: Store, command: str, workers: int) -> None:
        before, now = store.environment, environment(command, store.experiment.threads_per_run, workers)
        self.store = store
        self.is_first = not before
        self.changes = sessions.changes(before, now) if before else []
        """What is no longer as it was in the session before."""
        self.about = sessions.begun(before, now) | {"started": _now()}
        self.worked_on: set[str] = set()

    def write(self, **more: Any) -> None:
        """What is known of it by now."""
        self.about |= {"runs": len(self.worked_on), **more}
        write_json(self.store.path / "environment.json", self.about)

    def end(self, **more: Any) -> None:
        self.write(finished=_now(), **more)

    def update(self, job: Job, fraction: float, words: str) -> None:
        """As `eval.process.jobs.Update`. A run counts from the first step that it takes here, wherever it
        began or will end."""
        if fraction > 0 and words != "stopped" and job.name not in self.worked_on:
            self.worked_on.add(job.name)
            self.write()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
