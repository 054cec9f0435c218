"""Comparisons whose files say something else than they did, with every checksum made right again."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from damage import files_that_matter
from safetensors.numpy import load_file, save_file

from algos.engine.storage import MANIFEST, file_hash, read_json, write_json
from eval.directory.integrity import sealed

WEIRD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, -2.5, 10**18, -(10**18), 10**400, 1e308, -1e308, 5e-324, "", "x", "../x", "a\nb",
    "\x1b[2J", "\0", "x" * 5000, [], [1], ["x"], [[]], [None], {}, {"a": 1}, {"": None}, [{"a": []}],
)  # fmt: skip
"""What may stand in place of a value. JSON Lines may also hold the ones below, which other files cannot be made of."""
UNWRITABLE = (
    "NaN",
    "-Infinity",
    '"\\ud800"',
    "1e999",
    "9" * 5000,
    "[" * 60 + "]" * 60,
    "[" * 100_000,
    "{",
    "",
)


def forged_files(folder: Path) -> list[Path]:
    """All that a mutation may be made in: JSON, JSON Lines, YAML, and the frontier's arrays; no model's own files."""
    return [
        file
        for file in files_that_matter(folder)
        if file.name == "pool.safetensors"
        or file.name == MANIFEST
        or (file.suffix in (".json", ".jsonl", ".yaml") and "policy" not in file.parts)
    ]


def forge(folder: Path, file: Path, luck: random.Random) -> str:
    """Changes one thing in a file and seals it again; returns what was done."""
    if file.suffix == ".yaml":
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
        done = _mutate(value, luck)
        file.write_text(sealed(yaml.safe_dump(value, sort_keys=False)), encoding="utf-8")
    elif file.suffix == ".jsonl":
        done = _forge_lines(file, luck)
    elif file.suffix == ".safetensors":
        done = _forge_arrays(file, luck)
    else:
        value = read_json(file)
        done = _mutate(value, luck)
        write_json(file, value)
    reseal(folder, file)
    return f"{file.relative_to(folder).as_posix()}: {done}"


def _forge_lines(file: Path, luck: random.Random) -> str:
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    number = luck.randrange(len(lines) + 1)
    if number == len(lines) or luck.random() < 0.2:
        raw = luck.choice(UNWRITABLE)
        lines[number : number + 1] = [raw]
        done = f"line {number + 1} is {raw[:20]}"
    else:
        row = json.loads(lines[number])
        if luck.random() < 0.2:
            key, raw = luck.choice(list(row)), luck.choice(UNWRITABLE)
            others = json.dumps({name: value for name, value in row.items() if name != key})[1:]
            lines[number] = f"{{{json.dumps(key)}: {raw}, {others}"
            done = f"line {number + 1} {key} is {raw[:20]}"
        else:
            done = f"line {number + 1} {_mutate(row, luck)}"
            lines[number] = json.dumps(row)
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return done


def _forge_arrays(file: Path, luck: random.Random) -> str:
    arrays = load_file(file)
    name = luck.choice(sorted(arrays))
    array = arrays.pop(name)
    others = {
        "another type": array.astype(luck.choice(["float32", "int64", "bool"])),
        "flat": array.reshape(-1),
        "transposed": np.ascontiguousarray(array.T),
        "less": array[..., :-1].copy(),
        "nothing": array[..., :0].copy(),
        "no number": np.full_like(array, luck.choice([np.nan, np.inf, -np.inf])),
        "huge": np.full_like(array, luck.choice([1e308, -1e308, 1e6])),
        "zero": np.zeros_like(array),
    }
    how = luck.choice([*others, "renamed", "gone"])
    if how != "gone":
        arrays["x" if how == "renamed" else name] = others.get(how, array)
    save_file(arrays, file)
    return f"{name} {how}"


def _mutate(value: Any, luck: random.Random) -> str:
    """One entry somewhere in it, in place: another value, gone, another name, twice, or one more beside it."""
    path, inside = luck.choice(list(_places(value)))
    key = luck.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
    how = luck.choice(["another value"] * 5 + ["gone", "renamed", "one more", "as text", "in a list"])
    old = inside[key]
    if how == "gone":
        del inside[key]
    elif how == "renamed" and isinstance(inside, dict):
        inside[luck.choice(["x", "", "arm", "seed", "../x", "x\n", 'x"'])] = inside.pop(key)
    elif how == "one more":
        new = copy.deepcopy(luck.choice([old, *WEIRD]))
        if isinstance(inside, dict):
            inside[luck.choice(["x", "arm", "seed", "algorithm", "", "a\nb"])] = new
        else:
            inside.append(new)
    else:
        new = {"as text": str(old), "in a list": [old]}.get(how, copy.deepcopy(luck.choice(WEIRD)))
        inside[key] = new
        how = f"{how} {str(new)[:30]!r}"
    return f"{'.'.join(map(str, [*path, key]))} {how}"


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every collection that is not empty, with where it is."""
    if not isinstance(value, (dict, list)) or not value:
        return
    yield path, value
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _places(item, (*path, key))


def reseal(folder: Path, file: Path) -> None:
    """Of a file that was changed: what holds the file's checksum gets the one that it has now."""
    for holder in (file.parent / MANIFEST, file.parent / "status.json", file.parent.parent / "status.json"):
        name = file.name if holder.parent == file.parent else f"{file.parent.name}/{file.name}"
        if holder == file or not holder.is_file() or not holder.is_relative_to(folder):
            continue
        values = read_json(holder)
        if name in values["files"]:
            values["files"][name] = file_hash(file)
            write_json(holder, values)
            reseal(folder, holder)
