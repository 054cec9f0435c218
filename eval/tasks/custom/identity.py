"""What a spec names, a model or a function, and what a cache may know it by: its content, not its name."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from algos.engine.errors import UserError
from eval.workshop import content_hash

MOST_BELOW = 1000
"""Files that are looked at in the folders beside a function."""


def model_identity(model: str) -> str:
    """What a cache may know a model by: the content of a local one, the commit of one from the hub."""
    if Path(model).exists():
        return content_hash(Path(model))
    from algos.engine.hub import commit, repository_and_revision

    return f"{repository_and_revision(model)[0]}@{commit(model)}"


def names_function(spec: str, what: str) -> bool:
    """Whether the spec of a reward or judge (`what`) names a function, file.py:function, or else a model.

    Raises UserError for what can be neither.
    """
    if ".py:" in spec or spec.endswith(".py"):
        return True
    if ":" in spec and not os.path.exists(spec):  # not Path's, which raises for what no path can be
        raise UserError(
            f"there is no model {spec!a} for the {what}. A function is named file.py:function; add the .py."
        )
    return False


def reward_identity(spec: str) -> str:
    """What a cache may know a reward that was loaded by: a model as any other, a function by its file and, by size and
    time, what it may read: files beside it, and those in folders beside it that it names."""
    if not names_function(spec, "reward"):
        return model_identity(spec)
    path = Path(spec.rpartition(":")[0]).resolve()  # as it is loaded
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16)
    beside = [file for file in sorted(path.parent.iterdir()) if file.is_file()]
    for file in (*beside, *itertools.islice(_below(path), MOST_BELOW)):
        # By size and time: lexicons and helpers that the function reads, without reading them all.
        about = file.stat()
        name = file.relative_to(path.parent).as_posix()
        digest.update(f"{name} {about.st_size} {about.st_mtime_ns}".encode())
    return f"{spec.rpartition(':')[2]}@{digest.hexdigest()}"


def _below(path: Path) -> Iterator[Path]:
    """The files in folders beside a Python file whose names its text holds, or that of a module beside it which it
    names in turn: packages that it imports and lexicons that it opens. Not in all folders: reports beside a reward
    change with every run."""
    entries = sorted(path.parent.iterdir())
    folders = [entry for entry in entries if entry.is_dir()]
    modules = [entry for entry in entries if entry.suffix == ".py" and entry.is_file()]
    read, waiting, named = {path.name}, [path], set()
    while waiting:
        text = waiting.pop().read_text(encoding="utf-8", errors="replace")
        named |= {folder for folder in folders if _names(text, folder.name)}
        found = [module for module in modules if module.name not in read and _names(text, module.stem)]
        read |= {module.name for module in found}
        waiting += found
    for folder in sorted(named):
        for place, inner, files in os.walk(folder):
            inner[:] = sorted(name for name in inner if not name.startswith((".", "__pycache__")))
            yield from (file for name in sorted(files) if (file := Path(place, name)).is_file())


def _names(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None
