"""A comparison's directory to its report. Apart from `eval.comparison`: what draws again need not load what trains."""

from __future__ import annotations

from pathlib import Path

from eval.directory.lock import held
from eval.report.page import write_report
from eval.store import Store


def draw(store: Store) -> Path:
    """The report of whatever the directory holds, drawn again; returns its path."""
    with held(store.path, "report", wait=60):
        return write_report(Store.open(store.path), store.path)
