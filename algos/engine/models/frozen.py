"""A copy of a model, which does not change. If it is large, its weights leave a CPU's memory while it is not used."""

from __future__ import annotations

import copy
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

import torch
from torch import nn

from algos.engine.errors import RunError, one_line
from algos.engine.memory import ADAPTERS, out_of_memory_as

LARGE = 256 * 2**20
"""Bytes of weights from which on a copy is kept on disk: the memory that this frees is worth more than the time to read
them, which is a seventieth of a step at GPT-2's size."""
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_MOUNTS = Path("/proc/self/mountinfo")


class Frozen:
    """A copy of a model as it is now.

    The weights of a `LARGE` one on a CPU lie in a file of their own, which has no name and goes with the process; they
    are in memory only inside `loaded`. A policy reads its reference between updates, when there are no gradients, so
    the two share their memory: a fifth is saved of what weights, reference, gradients and AdamW's moments take
    together.
    """

    def __init__(self, model: nn.Module) -> None:
        # `requires_grad` stays as it is on the copy, which only ever runs under no_grad: torch chooses other
        # kernels for weights without it, and a model and its copy would differ in the last digits.
        weights = [p for p in model.parameters() if _plain(p)]
        folder = resting_place(sum(p.nbytes for p in weights))
        self._shelf = _Shelf.of(weights, folder) if folder else None
        stubs = zip(weights, self._shelf.stubs, strict=True) if self._shelf else ()
        # Weights that have a stub are replaced by it, not copied.
        self._model = copy.deepcopy(model, {id(weight): stub for weight, stub in stubs}).eval()
        self._readers = 0

    def __deepcopy__(self, _: Any) -> Self:
        """Another copy, with a file of its own."""
        with self.loaded() as model:
            return type(self)(model)

    @contextmanager
    def loaded(self) -> Iterator[nn.Module]:
        """The block in which the copy can be used. Raises RunError where its weights can no longer be read, or do not
        fit in memory."""
        self._readers += 1
        try:
            if self._shelf and self._readers == 1:
                self._shelf.fetch()
            yield self._model
        finally:
            self._readers -= 1
            if self._shelf and not self._readers:
                self._shelf.release()


def resting_place(size: int, copies: int = 1) -> str | None:
    """A folder on a disk for so many bytes of weights, in so many `copies`. None where they stay in memory: they are
    few, or no folder for temporary files is on a disk with room for one copy more than that."""
    if size < LARGE:
        return None
    with suppress(OSError):  # no folder can be written
        for folder in dict.fromkeys((tempfile.gettempdir(), "/var/tmp")):
            room = shutil.disk_usage(folder).free if os.access(folder, os.W_OK) else 0
            if room > (copies + 1) * size and not _in_memory(folder):
                return folder
    return None


class _Shelf:
    """Weights in a file, and a stub for each: a parameter that holds the weight from `fetch` to `release`, and is empty
    otherwise."""

    def __init__(self, file: IO[bytes]) -> None:
        self.stubs: list[nn.Parameter] = []
        self._file = file
        self._shapes: list[torch.Size] = []

    @classmethod
    def of(cls, weights: Sequence[nn.Parameter], folder: str) -> _Shelf | None:
        """None where the file cannot be written: they stay in memory then."""
        with suppress(OSError):
            # Unbuffered, so that weights are read straight into their tensors.
            file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115 (open as long as the shelf)
            _reserve(file, sum(weight.nbytes for weight in weights), folder)
            shelf = cls(file)
            for weight in weights:
                shelf._put(weight)
            return shelf
        return None

    def _put(self, weight: nn.Parameter) -> None:
        data = _bytes_of(weight)
        while data:  # one call writes 2 GiB at most
            data = data[self._file.write(data) :]
        stub = nn.Parameter(torch.empty(0, dtype=weight.dtype), requires_grad=weight.requires_grad)
        self.stubs.append(stub)
        self._shapes.append(weight.shape)

    def fetch(self) -> None:
        try:
            self._file.seek(0)
            with out_of_memory_as(RunError, f"out of memory in reading the reference's weights. {ADAPTERS}"):
                for stub, shape in zip(self.stubs, self._shapes, strict=True):
                    stub.data = torch.empty(shape, dtype=stub.dtype)
                    self._read_into(_bytes_of(stub))
        except OSError as error:
            raise RunError(
                f"cannot read the reference's weights from the disk that they lie on: {one_line(error)} "
                "Set TMPDIR to a folder on another one."
            ) from error

    def _read_into(self, room: memoryview) -> None:
        while room:
            found = self._file.readinto(room)  # type: ignore[attr-defined] # an unbuffered file has it
            if not found:
                raise OSError("the file ends too early.")
            room = room[found:]

    def release(self) -> None:
        for stub in self.stubs:
            stub.data = torch.empty(0, dtype=stub.dtype)


def _reserve(file: IO[bytes], size: int, folder: str) -> None:
    """Reserves so many bytes at once, as other runs may be about to do so. Raises OSError where there is no room for as
    many again."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)


def _plain(weight: nn.Parameter) -> bool:
    """Whether it is a contiguous tensor on a CPU, which can be read back from a file as it was."""
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.is_contiguous()


def _bytes_of(weight: nn.Parameter) -> memoryview:
    return weight.detach().flatten().view(torch.uint8).numpy().data


def _in_memory(folder: str) -> bool:
    """Whether the folder's files take memory; False where the system does not tell."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in _MOUNTS.read_text().splitlines():
            about, _, kind = line.partition(" - ")  # proc(5)
            if about.split()[2] == number:
                return kind.split()[0] in _IN_MEMORY
    return False
