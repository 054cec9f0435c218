"""A local file → its lines of UTF-8, read within bounds: no device, no archive that unpacks without end."""

from __future__ import annotations

import gzip
import json
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

from algos.engine.errors import UserError, one_line
from eval.data.rows import RowError

_UTF8_MARK = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"
MEBIBYTE = 2**20
MAX_LINE = 64 * MEBIBYTE  # far above any text one trains on
# Repetitive JSON Lines pack about 1:30; an archive made to fill a disk reaches 1:1000.
_MAX_RATIO, _RATIO_FROM = 100, MEBIBYTE


def text_lines(path: str, longest: int = MAX_LINE) -> Iterator[tuple[int, bytes]]:
    """(line, bytes) for each line, from 1. Lines end with a line feed only: U+2028 is part of a text.

    The file may be gzipped; a mark of UTF-8 at its beginning is left out. Raises UserError where it is no
    regular file, cannot be read, is UTF-16 or UTF-32, or has a line of more than `longest` bytes.
    """
    with open_bytes(path) as (handle, plain):
        line, unpacked, next_check = 0, 0, _RATIO_FROM
        while raw := handle.readline(longest + 1):
            line += 1
            if len(raw) > longest:
                raise UserError(
                    f"{path}:{line}: the line is longer than {longest // MEBIBYTE} MiB. "
                    "Check that the file is text with one row a line."
                )
            unpacked += len(raw)
            if unpacked > next_check:
                _refuse_bomb(path, unpacked, plain.tell())
                next_check = unpacked + MEBIBYTE
            if line == 1:
                _refuse_wide(path, raw)
                raw = raw.removeprefix(_UTF8_MARK)
            yield line, raw


@contextmanager
def open_bytes(path: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file's bytes, unpacked where it is gzipped (told by its first bytes, whatever its name), and the
    file itself. Raises UserError for what goes wrong while the block reads."""
    try:
        # A pipe would wait for a writer, a device would never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path} is not a regular file. Save what it gives to a file first.")
        with open(path, "rb") as plain:
            packed = plain.read(2) == _GZIP_MAGIC
            plain.seek(0)
            if not packed:
                yield plain, plain
                return
            with gzip.open(plain) as unpacked:
                yield cast(IO[bytes], unpacked), plain
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}. Check that the file is whole.") from None


def decode(raw: bytes) -> str:
    """UTF-8 as text; raises RowError naming the first byte that is not."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1})"
        raise RowError("not UTF-8", detail) from None


def decoded_lines(path: str, longest: int = MAX_LINE) -> Iterator[tuple[int, str]]:
    """`text_lines` as text, for formats in which a line that is not UTF-8 breaks the whole file: UserError."""
    for line, raw in text_lines(path, longest):
        try:
            yield line, decode(raw)
        except RowError as fault:
            raise UserError(f"{path}:{line}: {fault.detail}. Save the file as UTF-8.") from None


def _refuse_bomb(path: str, unpacked: int, packed: int) -> None:
    if unpacked > _RATIO_FROM + _MAX_RATIO * packed:
        raise UserError(
            f"{path} unpacks to more than {_MAX_RATIO} times its size, as no text does. "
            "If it is what you mean, unpack it yourself and give the result."
        )


def _refuse_wide(path: str, start: bytes) -> None:
    encoding = json.detect_encoding(start[:4])  # by marks and by where zero bytes stand
    if not encoding.startswith("utf-8"):
        raise UserError(f"{path} is not UTF-8 but looks like {encoding.upper()}. Save it as UTF-8.")
