"""Built artefacts (base models, pairs, reward models), cached by content: the same key is built once, for all arms."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import algos
from algos.engine.storage import (
    MAKING,
    MANIFEST,
    DamagedFile,
    atomic_directory,
    disk,
    file_hash,
    files_in,
    read_manifest,
)
from algos.engine.versions import installed

logger = logging.getLogger(__name__)

FACTS = "facts.json"
# Not content: the times in them differ from one build of the same thing to the next.
_MEASURED = {MANIFEST, FACTS}
# Pickled weights run code when they are loaded; safetensors do not.
_PICKLED = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
# All whose code decides, with our own, what is in an artefact; another version may round, sample, tokenise or train
# otherwise.
_LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "tokenizers", "numpy")


@dataclass(frozen=True)
class Artefact:
    """A finished build: its directory, the seconds its making took (then, if `cached`), whether it was there."""

    path: Path
    seconds: float
    cached: bool


class ArtefactCache:
    """Directories of finished builds under one root, shared by every process that uses it."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).resolve()  # what lies there is found from any working directory

    def build(self, stage: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Artefact:
        """The artefact of `stage` for `key`, made by `make(directory)` where no whole one exists.

        `key` is all that the result depends on, as JSON (numbers, strings, lists, maps); our own code, the versions of
        the libraries and the kind of processor are added to it. A build appears under its final name at once and
        complete, or not at all. Raises what `make` raises, TypeError where the key is not JSON, ValueError where
        `make` left pickled weights.
        """
        from filelock import FileLock

        identity = {
            "stage": stage,
            "key": dict(key),
            "code": _code(),
            "versions": {name: installed(name) for name in _LIBRARIES},
            "processor": platform.machine(),
        }
        target = self.root / f"{stage}-{json_hash(identity)}"
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / f".{target.name}.lock"):
            seconds = _whole(target)
            if seconds is not None:
                return Artefact(target, seconds, cached=True)
            for leftover in self.root.glob(f".{target.name}{MAKING}*"):
                disk.remove(leftover)  # A process that was killed while it held this lock.
            if target.exists():
                logger.warning("%s does not match its manifest: it is built again", target)
                disk.remove(target)
            return Artefact(target, self._make(target, identity, make), cached=False)

    def _make(self, target: Path, identity: Mapping[str, Any], make: Callable[[Path], None]) -> float:
        about = dict(identity)
        with atomic_directory(target, about) as making:
            start = time.perf_counter()
            make(making)
            about["seconds"] = time.perf_counter() - start
            pickled = [str(file.relative_to(making)) for file in files_in(making) if file.suffix in _PICKLED]
            if pickled:
                raise ValueError(f"weights are kept as safetensors only; got {', '.join(pickled)}")
        return float(about["seconds"])


def content_hash(path: Path, suffixes: Collection[str] = ()) -> str:
    """SHA-256 of a file, or of a directory's visible files and their names (manifest.json and facts.json aside,
    which hold measured times), as hex; with `suffixes` of those that end so. Two builds with the same weights and
    settings have the same hash."""
    path = Path(path)
    if path.is_file():
        return file_hash(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no file or directory to hash at {path}")
    files = [
        file
        for file in files_in(path)
        if file.name not in _MEASURED and (not suffixes or file.suffix in suffixes)
    ]
    visible = [
        file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    listing = {file.relative_to(path).as_posix(): file_hash(file) for file in visible}
    return json_hash(listing)


@functools.cache
def _code() -> str:
    """A hash of the sources that make artefacts: in a checkout they change while the version stays."""
    ours = Path(__file__).parents[1]
    makers = (Path(algos.__file__).parent, ours / "tasks", ours / "stages")
    return json_hash([content_hash(path, {".py"}) for path in makers])


def _whole(target: Path) -> float | None:
    """The seconds in the manifest of a directory whose files are exactly those it lists; None for any other."""
    try:
        manifest = read_manifest(target)
    except DamagedFile:
        return None
    found = {file.relative_to(target).as_posix() for file in files_in(target)} - {MANIFEST}
    return float(manifest["seconds"]) if found == set(manifest["files"]) else None


def json_hash(value: Any) -> str:
    """SHA-256 of a JSON value in its canonical form, as hex."""
    return _sha256(_canonical(value).encode())


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
