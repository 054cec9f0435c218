"""The table that the parity tests fill, written to the file named by PARITY_TABLE when all of them have passed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from parity_table import Table


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The everyday run, which leaves these tests out, does not import their peers either."""
    return True if "not parity" in config.option.markexpr else None


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """Rows are added by the tests. A run that failed, skipped or left out any of them writes nothing."""
    measured = Table()
    yield measured
    page = os.environ.get("PARITY_TABLE")
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if page and reporter is not None:
        incomplete = [
            kind for kind in ("failed", "error", "skipped", "deselected") if reporter.stats.get(kind)
        ]
        if not incomplete:
            Path(page).write_text(measured.markdown(), encoding="utf-8")
        else:
            reporter.write_line(f"\n{page} is left as it was: there are {' and '.join(incomplete)} tests.")
