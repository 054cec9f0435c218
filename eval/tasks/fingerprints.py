"""What models, and rewards and judges that are functions, are known by: change what matters and it is another.

What changes a fingerprint changes the key of a cache; that key may change for more, which costs no more than a build.
"""

from __future__ import annotations

import ast
import fnmatch
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from algos import UserError
from algos.engine.errors import one_line
from algos.engine.storage import file_hash
from eval.directory.integrity import INDEX
from eval.stages.cache import content_hash

MOST_BELOW = 1000
"""Files that are looked at in each folder beside a function."""


def model_key(model: str) -> str:
    """What a cache may know a model by: the content of a local one, the commit of one from the hub."""
    if Path(model).exists():
        return content_hash(Path(model))
    from algos.engine.models.hub import commit, repository_and_revision

    return f"{repository_and_revision(model)[0]}@{commit(model)}"


def reward_key(spec: str) -> str:
    """What a cache may know a reward that was loaded by: a model as any other, a function by its file and what it may read,
    and by name, size and time all files beside it: it may find them without naming them."""
    if not names_function(spec, "reward"):
        return model_key(spec)
    path = Path(spec.rpartition(":")[0]).resolve()  # as it is loaded
    try:
        digest = hashlib.blake2b(repr((file_hash(path), beside(path))).encode(), digest_size=16)
    except OSError as error:
        raise missing("reward", spec, error) from error
    for file in sorted(path.parent.iterdir()):
        if file.is_file():
            about = file.stat()
            digest.update(f"{file.name} {about.st_size} {about.st_mtime_ns}".encode())
    return f"{spec.rpartition(':')[2]}@{digest.hexdigest()}"


def names_function(spec: str, what: str) -> bool:
    """Whether the spec of a reward or judge (`what`) names a function, file.py:function, or else a model.

    Raises UserError for what can be neither.
    """
    if ".py:" in spec or spec.endswith(".py"):
        return True
    if not os.path.exists(spec):  # not Path's, which raises for what no path can be
        if ":" in spec:
            raise UserError(
                f"there is no model {spec!a} for the {what}. A function is named file.py:function; add the .py."
            )
        if "/" not in spec:
            raise UserError(
                f"there is no directory {spec!a} for the {what}. A function is named file.py:function, a model on the hub "
                "owner/name."
            )
    return False


def missing(name: str, where: str, error: Exception) -> UserError:
    """For a model, reward or judge (`name`) of which a file cannot be read."""
    return UserError(
        f"the {name} {where} cannot be found: {one_line(error)} Put it back, or start another comparison."
    )


def beside(path: Path, hashed: Callable[[Path], str] = file_hash) -> dict[str, str]:
    """Hashes of the files that the function in a Python file may read, by their paths from its folder. Raises OSError."""
    found: dict[str, str] = {}
    for file in _may_read(path):
        try:
            found[file.relative_to(path.parent).as_posix()] = hashed(file)
        except FileNotFoundError:  # since it was listed: caches have files that come and go
            continue
    return found


def is_module(name: str) -> bool:
    """Whether a file beside a function is code, and no data."""
    return name.endswith(".py")


class Hashes:
    """SHA-256 of files, computed again only where size or time of change is another: large ones are looked at often."""

    def __init__(self) -> None:
        self.known: dict[Path, tuple[tuple[int, int], str]] = {}

    def __call__(self, file: Path) -> str:
        about = file.stat()
        stamp = about.st_size, about.st_mtime_ns
        if file not in self.known or self.known[file][0] != stamp:
            self.known[file] = stamp, file_hash(file)
        return self.known[file][1]


def _may_read(path: Path) -> list[Path]:
    """What the function in a Python file may read of the files beside it and below: modules that it imports, files and
    folders that its texts name, and what those modules import and name in turn. Not all that lies there, such as reports."""
    entries = [entry for entry in sorted(path.parent.iterdir()) if not entry.name.startswith(".")]
    waiting, found = [path], set[Path]()
    while waiting:
        words = _words(waiting.pop())
        new = {entry for entry in entries if entry != path and _named(entry, words)} - found
        found |= new
        waiting += [entry for entry in new if entry.suffix == ".py" and entry.is_file()]
    files = [entry for entry in sorted(found) if entry.is_file()]
    folders = [entry for entry in sorted(found) if entry.is_dir()]
    return [*files, *(file for folder in folders for file in itertools.islice(_below(folder), MOST_BELOW))]


def _words(file: Path) -> set[str]:
    """What a Python file imports, and the parts of paths in its texts, docstrings aside."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # it may be there for something else
        return set()
    said, words = set[int](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            said.add(id(node.value))
        elif isinstance(node, ast.Import):
            words |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            words |= {(node.module or "").partition(".")[0], *(alias.name for alias in node.names)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            words |= set(node.value.replace("\\", "/").split("/"))
    return words - {""}


def _named(entry: Path, words: set[str]) -> bool:
    if entry.name in words or (entry.suffix == ".py" and entry.stem in words):
        return True
    return any("*" in word and fnmatch.fnmatch(entry.name, word) for word in words if word.strip("*."))


def _below(folder: Path) -> Iterator[Path]:
    for place, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__pycache__")))
        if "experiment.yaml" in files and INDEX in files:  # a comparison, which changes as it is made
            inner.clear()
            continue
        yield from (file for name in sorted(files) if (file := Path(place, name)).is_file())
