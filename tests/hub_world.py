"""What a hub's caches hold in the tests: two commits of nobody/something, and a dataset."""

from __future__ import annotations

import shutil
from pathlib import Path

ROWS = [{"prompt": "a", "n": 1}, {"prompt": "b\u2028c", "n": 2}]
FIRST, SECOND = "0" * 40, "1" * 40


def keep(cache: Path, model: str, commit: str, *references: str) -> None:
    """A commit of nobody/something in the hub's cache, as the hub's own client lays it out."""
    kept = cache / "models--nobody--something"
    shutil.copytree(model, kept / "snapshots" / commit)
    for reference in references:
        file = kept / "refs" / reference
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(commit)
