"""A comparison's directory in the hands of the one process that writes it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from algos.engine.errors import one_line
from algos.engine.storage import clear_leftovers, disk
from eval.directory.integrity import refuse_taken
from eval.directory.lock import held
from eval.experiment import Experiment
from eval.process.refusals import disk_told
from eval.store import Store

logger = logging.getLogger(__name__)


@contextmanager
def creating(path: Path, experiment: Experiment) -> Iterator[Store]:
    """`Store.create`, and the block in which this process, and no other, writes the comparison.

    Raises UserError for what is there already, and for what the system refuses.
    """
    with disk_told(path):
        refuse_taken(path)  # before anything is put there
        with held(path, "comparison"):
            clear_leftovers(path)
            yield Store.create(path, experiment)


@contextmanager
def resuming(path: Path, grown: Experiment | None = None) -> Iterator[Store]:
    """`Store.open`, and the block in which this process, and no other, writes the comparison.

    Raises DamagedFile for a file that is not what was written, and UserError for what the system refuses; what can be
    made again and is gone is named in a warning.
    """
    with disk_told(path):
        Store.open(path)  # before anything is put there
        with held(path, "comparison"):
            clear_leftovers(path)
            store = Store.open(path, grown)
            gone = store.gone()
            for unit in gone:
                logger.warning("%s was written but is gone: it is made again, if it is needed.", path / unit)
            # What nothing needs any more is not made again, and would be missed for ever.
            store.integrity.forget(gone)
            for run in store.all_runs:
                run.tidy()
            yield store


def discard(path: Path) -> None:
    """Removes a comparison that was created but in which nothing has run; of a folder that is reached through a link what is
    in it. Raises nothing: it is called because something else went wrong."""
    if any((path / place).exists() for place in ("runs", "tuning/runs")):
        return
    try:
        for found in path.iterdir():
            disk.remove(found)
        if not path.is_symlink():
            path.rmdir()
    except OSError as error:
        logger.warning("%s could not be removed: %s.", path, one_line(error))
