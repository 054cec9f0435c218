"""Files that are whole or absent, and known to be what was written. JSON and safetensors only.

Written under a temporary name, synced, renamed, the folder synced: a reader, a crash or a full disk meets
the old version or the new one. Every file tells whether it is what was written: JSON and safetensors hold a
SHA-256 of their own content, a directory holds a manifest with that of each file in it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

from algos.engine.errors import UserError, one_line

MANIFEST = "manifest.json"
MAKING = ".making-"
"""Marks what is being written: `.<name>.making-<number>`. Left behind only by a process that was killed."""
_SEAL = "sha256"
_REFUSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""What a disk answers that is full, read-only or broken."""


class DamagedFile(UserError):
    """A file that is not what was written: changed, cut off or gone."""


class Disk:
    """What touches the disk and can fail: the one place where tests let it."""

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)

    def write_tensors(self, path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        """Raises OSError, like the others."""
        with saving(path):
            save_file(tensors, path, metadata=metadata)

    def append(self, path: Path, data: bytes) -> None:
        with path.open("ab") as file:
            file.write(data)

    def sync(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, path: Path, target: Path) -> None:
        os.replace(path, target)

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(path, size)

    def remove(self, path: Path) -> None:
        """A file or a whole directory; nothing where there is none."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


disk = Disk()


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """The block in which safetensors writes to `path`: what it makes of a full disk is an OSError again."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, one_line(error), os.fspath(path)) from error


def refused(error: OSError, directory: Path) -> bool:
    """Whether the disk did not take, or give, what belongs in this directory: the file that the error names lies there,
    or it names none, as that of a write does not, and is what a disk answers."""
    if isinstance(error.filename, (str, bytes, os.PathLike)):
        return Path(os.fsdecode(error.filename)).resolve().is_relative_to(directory.resolve())
    return error.errno in _REFUSING


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed onto it when the block ends well, removed when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        disk.sync(temporary)
        disk.rename(temporary, path)
        disk.sync(path.parent)
    finally:
        disk.remove(temporary)


@contextmanager
def atomic_directory(path: Path, about: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """A temporary directory beside `path` that takes its place, with a manifest, when the block ends well.

    `about` is added to the manifest as it is when the block ends. What stood at `path` before is moved
    aside first and removed last, so at every moment one whole version exists: `path`, or
    `path` with `.previous` behind (see `existing`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, previous = _beside(path), path.with_name(path.name + ".previous")
    temporary.mkdir()
    try:
        yield temporary
        files = {file.relative_to(temporary).as_posix(): file_hash(file) for file in files_in(temporary)}
        write_json(temporary / MANIFEST, {**(about or {}), "files": files})
        for part in [*sorted(temporary.rglob("*")), temporary]:
            disk.sync(part)
        if path.exists():
            disk.remove(previous)
            disk.rename(path, previous)
        disk.rename(temporary, path)
        disk.sync(path.parent)
        disk.remove(previous)
    finally:
        disk.remove(temporary)


def existing(path: Path) -> Path | None:
    """The whole version of a directory written by `atomic_directory`, if there is one.

    Raises DamagedFile, naming the file, where there is one that is not what was written.
    """
    previous = path.with_name(path.name + ".previous")
    found = path if path.is_dir() else previous if previous.is_dir() else None
    if found is not None:
        read_manifest(found)
    return found


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a directory all of whose listed files are as they were written. Raises DamagedFile."""
    manifest = read_json(directory / MANIFEST)
    if not isinstance(manifest.get("files"), dict):
        raise DamagedFile(f"{directory / MANIFEST} does not list the files.")
    for name, expected in manifest["files"].items():
        check_file(directory, name, expected)
    return manifest


def check_file(directory: Path, name: str, expected: str) -> None:
    """Raises DamagedFile unless `directory/name` is a plain file with this SHA-256."""
    path = directory / name
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or path.is_symlink():
        raise DamagedFile(f"{path} is not a file of its directory but a link or a path out of it.")
    try:
        found = file_hash(path)
    except OSError as error:
        raise DamagedFile(f"{path} was written but cannot be read: {error.strerror}.") from error
    if found != expected:
        raise DamagedFile(f"{path} is not what was written: its SHA-256 differs.")


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        disk.write(temporary, text.encode("utf-8"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object with a SHA-256 of itself as its last entry. Raises ValueError for NaN."""
    write_text(path, _sealed(value))


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote. Raises DamagedFile where a single byte of it differs, or it is gone."""
    try:
        text = path.read_bytes().decode("utf-8")
        value = json.loads(text)
        value.pop(_SEAL)
        whole = _sealed(value) == text
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise DamagedFile(f"{path} is not what was written: its SHA-256 differs.")
    return dict(value)


def _sealed(value: Mapping[str, Any]) -> str:
    plain = json.dumps(dict(value), indent=2, ensure_ascii=False, allow_nan=False)
    seal = hashlib.sha256(plain.encode("utf-8")).hexdigest()
    return json.dumps({**value, _SEAL: seal}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, lasting: bool = True) -> None:
    """A safetensors file whose metadata hold a SHA-256 of names, shapes, types and values.

    `lasting=False` does not wait for the disk, which takes milliseconds a file: for what can be made again.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    seal = {_SEAL: _tensor_hash(plain)}
    if not lasting:
        disk.write_tensors(path, plain, seal)
        return
    with atomic_file(path) as temporary:
        disk.write_tensors(temporary, plain, seal)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What `write_tensors` wrote. Raises DamagedFile where a value differs, or the file is gone."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            seal = (file.metadata() or {}).get(_SEAL)
    except (OSError, SafetensorError) as error:
        raise DamagedFile(f"{path} cannot be read: {one_line(error)}.") from error
    if seal != _tensor_hash(tensors):
        raise DamagedFile(f"{path} is not what was written: its SHA-256 differs.")
    return tensors


def _tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        hashed.update(tensor.reshape(-1).view(uint8).numpy().data)
    return hashed.hexdigest()


def files_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def clear_leftovers(directory: Path) -> None:
    """Removes what a killed process was writing. Only for who alone writes there."""
    for leftover in directory.rglob(f".*{MAKING}*"):
        disk.remove(leftover)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}{MAKING}{secrets.token_hex(8)}")


def saved_states(folder: Path) -> list[Path]:
    """The checkpoints in a folder, one an iteration, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir()) if folder.is_dir() else []
