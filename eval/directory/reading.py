"""Files of a comparison's directory, read and held to their schemas (`eval.directory.schemas`).

A checksum tells that a file is what somebody wrote, not that this program did: who writes files can write checksums.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from algos.engine.storage import MANIFEST, DamagedFile, existing, read_json
from eval.directory.schemas import Manifest

Schema = type[BaseModel]


def read_checked(file: Path, schema: Schema) -> dict[str, Any]:
    """`read_json`, of this schema. Raises DamagedFile."""
    value = read_json(file)
    try:
        schema.model_validate(value)
    except ValidationError as error:
        raise _misshapen(error, file) from None
    return value


def whole(directory: Path) -> Path | None:
    """`existing`, of a directory whose manifest has the schema of one. Raises DamagedFile."""
    previous = directory.with_name(directory.name + ".previous")
    for found in (directory, previous):
        if found.is_dir():
            read_checked(found / MANIFEST, Manifest)
            break
    return existing(directory)


def read_jsonl(file: Path, schema: Schema) -> list[dict[str, Any]]:
    """The rows of a file, none where it is missing; a last line that was cut off is left out.

    Raises DamagedFile for a line that is no row of this schema.
    """
    return list(_rows(file, schema)) if file.is_file() else []


def _rows(file: Path, schema: Schema) -> Iterator[dict[str, Any]]:
    content = file.read_bytes()
    # splitlines() would cut at U+2028 in model output.
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].split(b"\n")[:-1], 1):
        try:
            row = from_json(line)  # half the time of `json`: a report reads 10⁶ lines
        except ValueError:
            raise DamagedFile(f"{file} is not what was written: line {number} is no row.") from None
        try:
            schema.model_validate(row)
        except ValidationError as error:
            raise _misshapen(error, file, number) from None
        yield row


def _misshapen(error: ValidationError, file: Path, line: int = 0) -> DamagedFile:
    """Names the file and the entry."""
    first = error.errors(include_url=False)[0]
    places = [f"line {line}" if line else "", ".".join(map(_readable, first["loc"]))]
    place = f" ({', '.join(filter(None, places))})" if any(places) else ""
    return DamagedFile(
        f"{file} is not of the shape that this program writes{place}: "
        f"{first['msg'].removeprefix('Value error, ')}; got {reprlib.repr(first['input'])}."
    )


def _readable(part: int | str) -> str:
    """A key as it is, or quoted where it is long or holds what would drive a terminal."""
    return str(part) if re.fullmatch(r"[\w./ -]{1,80}", str(part), re.ASCII) else ascii(str(part)[:80])
