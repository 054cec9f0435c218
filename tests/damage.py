"""Files that are damaged on purpose, and mended again."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path


def files_that_matter(folder: Path) -> list[Path]:
    """All but what is drawn from them, locks, and the cache of the reference's log-probabilities."""
    drawn = ("figures", ".locks", "report.md", "report.html", "results.csv", "results.parquet")
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.relative_to(folder).parts[0] not in drawn
        and not path.name.startswith("reference-logps")
    ]


@contextlib.contextmanager
def damaged(path: Path, how: str, luck: random.Random) -> Iterator[None]:
    """The file with one byte changed, cut off at some place, or gone; as it was afterwards."""
    content = path.read_bytes()
    try:
        if how == "removed":
            path.unlink()
        elif how == "truncated":
            path.write_bytes(content[: luck.randrange(len(content))])
        elif not content:
            path.write_bytes(b"x")
        else:
            place = luck.randrange(len(content))
            other = luck.choice([byte for byte in range(256) if byte != content[place]])
            path.write_bytes(content[:place] + bytes([other]) + content[place + 1 :])
        yield
    finally:
        path.write_bytes(content)
