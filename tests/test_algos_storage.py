"""Files that are whole or absent, and that tell whether they are what was written."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algos.engine.storage import (
    DamagedFile,
    atomic_directory,
    atomic_file,
    clear_leftovers,
    disk,
    existing,
    read_json,
    read_manifest,
    read_tensors,
    refused,
    write_json,
    write_tensors,
    write_text,
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EROFS, "read-only", "{here}/a/b"), True),
        (OSError(errno.EACCES, "denied", "{here}/a/../c"), True),
        (OSError(errno.EACCES, "denied", b"/elsewhere"), False),
        (OSError(errno.ENOSPC, "full", "{here}-too"), False),
        (OSError(errno.ENOSPC, "full", 7), True),  # by a descriptor, which has no name
        (OSError(errno.EMFILE, "too many"), False),
        (OSError("a library's own"), False),
    ],
)
def test_a_disk_refuses_what_belongs_in_a_directory(tmp_path: Path, error: OSError, expected: bool) -> None:
    here = tmp_path / "here"
    (tmp_path / "link").symlink_to(here)
    if isinstance(error.filename, str):
        error.filename = Path(error.filename.format(here=here))
    assert refused(error, here) is expected
    assert refused(error, tmp_path / "link") is expected


def test_what_safetensors_could_not_write_is_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone") as caught:
        disk.write_tensors(tmp_path / "gone" / "x.safetensors", {"a": torch.zeros(1)}, {})
    assert refused(caught.value, tmp_path)
    assert not refused(caught.value, tmp_path / "other")


class Stopped(Exception):
    """What ends a block half-way."""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5).filter(lambda key: key != "sha256"), JSON, max_size=4))
def test_json_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    write_json(path, value)
    assert read_json(path) == value
    assert json.loads(path.read_text(encoding="utf-8")).keys() == {*value, "sha256"}


def test_every_single_byte_of_a_json_file_matters(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"status": "done", "n": 3, "word": "π", "seconds": 1.5})
    content = path.read_bytes()
    for place in range(len(content)):
        for other in (content[place] ^ 1, 0x20, 0x0A):
            if other != content[place]:
                path.write_bytes(content[:place] + bytes([other]) + content[place + 1 :])
                with pytest.raises(DamagedFile, match=r"x\.json"):
                    read_json(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedFile):
            read_json(path)


def test_nan_never_becomes_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


TENSORS = {
    "w": torch.tensor([[1.5, float("nan")], [3.0, -0.0]]),
    "half": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    "flags": torch.tensor([True, False]),
    "step": torch.tensor(7.0),
    "none": torch.empty(0, 3),
    "wide": torch.arange(6.0).reshape(2, 3).T,
}


def test_tensors_come_back_bit_by_bit(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", TENSORS)
    found = read_tensors(tmp_path / "x.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name].nan_to_num(9), tensor.nan_to_num(9))


def test_a_changed_value_or_a_cut_tensor_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS)
    content = path.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    for place in range(size, len(content)):  # every byte of the values
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(DamagedFile, match=r"x\.safetensors"):
            read_tensors(path)
    for length in (0, 4, size - 1, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedFile, match=r"x\.safetensors"):
            read_tensors(path)
    path.unlink()
    with pytest.raises(DamagedFile, match=r"x\.safetensors"):
        read_tensors(path)


def write(path: Path, text: str) -> None:
    with atomic_directory(path) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "a.txt").write_text(text, encoding="utf-8")


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "made"
    for text in ("one", "two"):
        write(target, text)
        assert (target / "deep" / "a.txt").read_text(encoding="utf-8") == text
        assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_crash_between_the_two_renames_leaves_the_previous_version(tmp_path: Path) -> None:
    target = tmp_path / "made"
    write(target, "one")
    target.rename(tmp_path / "made.previous")
    assert existing(target) == tmp_path / "made.previous"
    write(target, "two")
    assert existing(target) == target
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_the_manifest_holds_what_was_known_at_the_end_of_the_block(tmp_path: Path) -> None:
    about: dict[str, Any] = {"stage": "base"}
    with atomic_directory(tmp_path / "made", about) as temporary:
        (temporary / "a.txt").write_text("one", encoding="utf-8")
        about["seconds"] = 1.5
    # SHA-256 of "one".
    files = {"a.txt": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"}
    assert read_manifest(tmp_path / "made") == {"stage": "base", "seconds": 1.5, "files": files}


@pytest.mark.parametrize("how", ["changed", "gone", "link", "manifest gone", "manifest changed"])
def test_a_file_that_is_not_what_was_written_is_named(tmp_path: Path, how: str) -> None:
    target = tmp_path / "made"
    write(target, "one")
    file, manifest = target / "deep" / "a.txt", target / "manifest.json"
    if how == "changed":
        file.write_text("onE", encoding="utf-8")
    elif how == "gone":
        file.unlink()
    elif how == "link":
        (tmp_path / "elsewhere").write_text("one", encoding="utf-8")
        file.unlink()
        file.symlink_to(tmp_path / "elsewhere")
    elif how == "manifest gone":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text(encoding="utf-8").replace("a.txt", "b.txt"), encoding="utf-8")
    with pytest.raises(DamagedFile, match=r"a\.txt" if "manifest" not in how else r"manifest\.json"):
        existing(target)


def test_a_manifest_cannot_point_out_of_its_directory(tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("one", encoding="utf-8")
    digest = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    (tmp_path / "made").mkdir()
    for name in ("../outside.txt", str(tmp_path / "outside.txt")):
        write_json(tmp_path / "made" / "manifest.json", {"files": {name: digest}})
        with pytest.raises(DamagedFile, match=r"outside\.txt"):
            existing(tmp_path / "made")


def test_a_block_that_raises_writes_nothing(tmp_path: Path) -> None:
    def directory() -> None:
        with atomic_directory(tmp_path / "made") as temporary:
            (temporary / "x").write_text("half", encoding="utf-8")
            raise Stopped

    def file() -> None:
        with atomic_file(tmp_path / "x") as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise Stopped

    for stopped in (directory, file):
        with pytest.raises(Stopped):
            stopped()
    assert list(tmp_path.iterdir()) == []
    assert existing(tmp_path / "made") is None


def test_what_a_killed_process_was_writing_is_cleared(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "made", "one")
    (tmp_path / "deep" / ".made.making-12ab").mkdir()
    (tmp_path / "deep" / ".made.making-12ab" / "x").touch()
    (tmp_path / ".x.json.making-77").touch()
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["made"]


def test_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "text", "x")
    assert (tmp_path / "text").stat().st_mode == (tmp_path / "plain").stat().st_mode
