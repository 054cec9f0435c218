"""One run's folder: rows that are appended, a status that is written last, and how far it had got.

events.jsonl  rows.jsonl  samples.jsonl  checkpoint/<iteration>/  policy/  status.json
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algos.engine.storage import (
    MANIFEST,
    DamagedFile,
    check_file,
    clear_leftovers,
    disk,
    file_hash,
    saved_states,
    write_json,
)
from eval.directory.lock import held
from eval.directory.reading import Schema, read_checked, read_jsonl, whole
from eval.directory.run_schemas import Checkpoint, Event, Row, Sample, Status

logger = logging.getLogger(__name__)

ROWS: dict[str, Schema] = {"events": Event, "rows": Row, "samples": Sample}


@dataclass(frozen=True)
class Run:
    """One arm with one seed, and its folder."""

    arm: str
    seed: int
    folder: Path

    @classmethod
    def at(cls, folder: Path) -> Run:
        """The run of a folder that is named <arm>-s<seed>."""
        arm, _, seed = folder.name.rpartition("-s")
        return cls(arm, int(seed), folder)

    @property
    def unit(self) -> str:
        """What the comparison's index calls it."""
        return f"runs/{self.folder.name}"

    @property
    def status(self) -> dict[str, Any]:
        """`status` is done, failed or missing; with `error`, `diverged`, `fraction`, `updates`, `seconds`, `policy`,
        and SHA-256 of `files`. Raises DamagedFile where it is not what was written."""
        file = self.folder / "status.json"
        return read_checked(file, Status) if file.is_file() else {"status": "missing"}

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoint"

    def alone(self) -> AbstractContextManager[None]:
        """Nobody else writes this run in the block. Waits for a worker whose comparison was just killed."""
        return held(self.folder.parent.parent, f"run-{self.folder.name}", wait=30)

    def begin(self) -> None:
        """Back to the newest whole checkpoint, with the rows written until then; an empty folder where there is none."""
        disk.remove(self.folder / "status.json")
        disk.remove(self.folder / "policy")
        disk.remove(self.folder / "traceback.txt")
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(self.folder)
        for saved in reversed(saved_states(self.checkpoints)):
            try:
                whole(saved)
                self._cut(read_checked(saved / "state.json", Checkpoint)["notes"]["rows"])
            except DamagedFile as error:
                logger.warning("%s The checkpoint before it is used, if there is one.", error)
                disk.remove(saved)
            else:
                return
        disk.remove(self.folder)
        self.folder.mkdir(parents=True)

    def append(self, name: str, *rows: Mapping[str, Any]) -> None:
        """Lines to events.jsonl, rows.jsonl or samples.jsonl; not-a-number becomes null."""
        disk.append(self._file(name), as_jsonl(rows).encode("utf-8"))

    def mark(self) -> dict[str, dict[str, Any]]:
        """How far each file of rows has got, all of it on the disk: what a checkpoint goes back to."""
        marks = {}
        for name in self._written():
            disk.sync(self._file(name))
            marks[name] = {"bytes": self._file(name).stat().st_size, "sha256": file_hash(self._file(name))}
        disk.sync(self.folder)
        return marks

    def finish(self, **status: Any) -> None:
        """Writes the status, with checksums of what the run has written; a run that is done needs no checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files = {f"{name}.jsonl": mark["sha256"] for name, mark in self.mark().items()}
        if status.get("policy"):
            files[f"policy/{MANIFEST}"] = file_hash(self.folder / "policy" / MANIFEST)
        write_json(self.folder / "status.json", finite({**status, "files": files}))
        self.tidy()

    def tidy(self) -> None:
        """A run that is done needs no checkpoint, nor what is left of one whose removal was cut short."""
        if self.checkpoints.exists() and self.status["status"] == "done":
            disk.remove(self.checkpoints)

    def read(self, name: str) -> list[dict[str, Any]]:
        """The lines of a file. Raises DamagedFile, with the remedy, for one that is no such line."""
        try:
            return read_jsonl(self._file(name), ROWS[name])
        except DamagedFile as error:
            comparison = self.folder.parent.parent
            raise DamagedFile(
                f"{error} Remove {self.folder} and go on with --resume {comparison}: it is made again."
            ) from error

    def check(self) -> None:
        """Raises DamagedFile naming a file that is not what the finished run wrote."""
        status = self.status
        if status["status"] == "missing":
            raise DamagedFile(f"{self.folder / 'status.json'} was written but is gone.")
        for name, expected in status["files"].items():
            check_file(self.folder, name, expected)
        if status.get("policy"):
            whole(self.folder / "policy")

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def _written(self) -> list[str]:
        return [name for name in ROWS if self._file(name).is_file()]

    def _cut(self, marks: Mapping[str, Mapping[str, Any]]) -> None:
        """Every file of rows as it was at a mark. Raises DamagedFile, having changed nothing, where one is not."""
        for name, mark in marks.items():
            _check_beginning(self._file(name), mark["bytes"], mark["sha256"])
        for name in self._written():
            if name in marks:
                disk.truncate(self._file(name), marks[name]["bytes"])
            else:
                disk.remove(self._file(name))


def _check_beginning(path: Path, size: int, expected: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.sha256(file.read(size)).hexdigest()
    except OSError as error:
        raise DamagedFile(f"{path} was written but cannot be read: {error.strerror}.") from error
    if found != expected:
        raise DamagedFile(f"{path} is not what was written: its SHA-256 differs.")


def as_jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows)


def finite(value: Any) -> Any:
    """The same with null for what is not finite, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
