"""Whether a comparison's directory holds what was written to it, and nothing that is followed elsewhere or run.

Every file tells by a checksum whether it was changed (algos/engine/storage.py, eval/directory/runs.py). That one is gone is
told by `index.json`, which names what has been written. Corruption is noticed, forgery is not: who can write
the files can write their checksums.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from algos import UserError
from algos.engine.storage import MAKING, DamagedFile, read_tensors, write_json
from eval.directory.lock import LOCKS
from eval.directory.reading import Schema, read_checked, whole
from eval.directory.runs import Run
from eval.directory.schemas import Choice, Environment, Facts, Index, Matches, Sources

INDEX = "index.json"
FILES: dict[str, Schema] = {
    "facts.json": Facts,
    "environment.json": Environment,
    "matches.json": Matches,
    "sources.json": Sources,
    "tuning/choice.json": Choice,
}
_DIRECTORIES = ("base", "frontier")
_UNIT = re.compile(r"materials/[a-z0-9][\w.-]*|runs/[a-z0-9][\w.-]*-s[0-9]+", re.ASCII | re.IGNORECASE)
_AGAIN = "Remove {unit} and go on with --resume {path}: it is made again."
_LOST = (
    "Put it back from a copy: without it the comparison cannot go on, and has to be started again with --out."
)


class Integrity:
    """What has been written to one comparison's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self) -> None:
        """An empty index, without which no directory is a comparison's."""
        self._write(())

    def note(self, but: Collection[str] = ()) -> None:
        """Adds to the index what is there by now, so that it is missed when it goes. `but`: what is about to go."""
        known = self._known()
        present = {unit for unit in self._units() if self._is_there(unit)} - set(but)
        if present - known:
            self._write(known | present)

    def forget(self, units: Iterable[str]) -> None:
        """Takes names out of the index: of what is about to be made again, or of what is gone and was told of."""
        known, left = self._known(), set(units)
        if known & left:
            self._write(known - left)

    def check(self) -> list[str]:
        """Raises DamagedFile, with the remedy, for a file that is not what was written.

        Returns the names of what was written and has been removed whole, but can be made again.
        """
        known, gone = self._known(), []
        for unit in sorted(known | set(self._units())):
            remedy = _LOST if _is_lost(unit) else _AGAIN
            try:
                if not self._check(unit) and unit in known:
                    gone.append(unit)
            except DamagedFile as error:
                told = remedy.format(unit=self.path / unit, path=self.path)
                raise DamagedFile(f"{error} {told}") from error
        lost = [unit for unit in gone if _is_lost(unit)]
        if lost:
            raise DamagedFile(f"{self.path / lost[0]} was written but is gone. {_LOST}")
        return gone

    def _check(self, unit: str) -> bool:
        """Whether it is there. Raises DamagedFile."""
        place = self.path / unit
        if unit.startswith("runs/"):
            if self._is_there(unit) or (place.exists() and unit in self._known()):
                Run.at(place).check()
            return place.exists()
        if unit in FILES:
            return place.is_file() and read_checked(place, FILES[unit]) is not None
        if place.suffix == ".safetensors":
            return place.is_file() and bool(read_tensors(place))
        return whole(place) is not None

    def _units(self) -> list[str]:
        """Everything that may be there, and all that is."""
        materials = [path.parent for path in self.path.glob("materials/*/manifest.json")]
        caches = list(self.path.glob("materials/*.safetensors"))
        runs = [
            path.parent
            for path in self.path.glob("runs/*/status.json")
            if re.fullmatch(r".+-s[0-9]+", path.parent.name)
        ]
        return [
            *FILES,
            *_DIRECTORIES,
            *(path.relative_to(self.path).as_posix() for path in sorted([*materials, *caches, *runs])),
        ]

    def _is_there(self, unit: str) -> bool:
        place = self.path / unit
        if unit.startswith("runs/"):
            return (place / "status.json").is_file()
        return place.exists()

    def _known(self) -> set[str]:
        try:
            written: list[str] = read_checked(self.path / INDEX, Index)["written"]
        except DamagedFile as error:
            raise DamagedFile(f"{error} {_LOST}") from error
        for unit in written:
            # The index may be a stranger's: a path of his would be read, and told to be removed.
            if unit not in (*FILES, *_DIRECTORIES) and not _UNIT.fullmatch(unit):
                raise DamagedFile(f"{self.path / INDEX} names {unit!a}, which no comparison writes. {_LOST}")
        return set(written)

    def _write(self, units: Iterable[str]) -> None:
        write_json(self.path / INDEX, {"written": sorted(units)})


def _is_lost(unit: str) -> bool:
    """Materials may depend on files that are no longer what they were; all else can be made again from them."""
    return unit.startswith("materials/") and not unit.endswith(".safetensors")


def refuse_taken(path: Path) -> None:
    """Raises UserError where a folder holds anything but what a comparison leaves that was killed as it began."""
    if (path / "experiment.yaml").exists():
        raise UserError(
            f"{path} holds another comparison. Go on with it by --resume {path}, or name another folder with --out."
        )
    if path.exists() and not (path.is_dir() and all(_nothing_yet(found) for found in path.iterdir())):
        raise UserError(f"{path} exists and is not empty. Name another folder with --out.")


def _nothing_yet(path: Path) -> bool:
    return path.name in (LOCKS, INDEX) or MAKING in path.name


def refuse_links(directory: Path) -> None:
    """Raises UserError naming a link or a special file in it: what it stands for would be read, or overwritten.

    The directory itself may be reached through links, which are the user's own. The folder of Weights & Biases,
    which links into itself, is none of ours: nothing here reads it.
    """
    folders = [os.fspath(directory)]
    while folders:
        with suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:  # a run may be tidying up
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders += [] if Path(entry.path) == directory / "wandb" else [entry.path]
                elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                    kind = "a link" if entry.is_symlink() else "a device, pipe or socket"
                    raise UserError(
                        f"{entry.path} is {kind}, but a comparison holds only files and folders. Replace it by "
                        "what it stands for, or remove it."
                    )


def refuse_code_inside(directory: Path, where: str) -> None:
    """Raises UserError where `file.py:function` lies in a comparison's directory, as no reward of the user's does."""
    file, colon, _ = where.rpartition(":")
    if colon and file.endswith(".py") and Path(file).resolve().is_relative_to(directory.resolve()):
        raise UserError(
            f"{file} lies in the comparison's own directory, which holds results, not code. Keep the function elsewhere, "
            "and start another comparison with it."
        )


def sealed(text: str) -> str:
    """YAML with a SHA-256 of itself as a comment in its last line."""
    return text + f"# sha256: {hashlib.sha256(text.encode('utf-8')).hexdigest()}\n"


def check_sealed(file: Path) -> None:
    """Raises DamagedFile unless the file is as `sealed` made it."""
    content = file.read_bytes()
    text = content[: content.rfind(b"\n", 0, -1) + 1]
    try:
        whole = sealed(text.decode("utf-8")).encode("utf-8") == content
    except UnicodeDecodeError:
        whole = False
    if not whole:
        raise DamagedFile(
            f"{file} is not what was written: its SHA-256 differs. Undo the change, or start another comparison "
            "from it with --config and --out: runs made with other settings do not belong together."
        )
