"""Whether what a comparison was begun with is still what it was, and what a cache may know it by.

Model, reward and judge lie where the user or the cache has them, where they may be changed or removed meanwhile:
`sources.json` keeps where they were and fingerprints of what was there. The rows of the user's data are in the
comparison's own materials, where later ones are compared with them. What changes a fingerprint changes the key of a
cache; that key may change for more, which costs no more than a build.
"""

from __future__ import annotations

import ast
import fnmatch
import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from algos import UserError
from algos.engine.errors import one_line
from algos.engine.storage import file_hash, write_json
from eval.directory.integrity import INDEX
from eval.directory.reading import read_shaped
from eval.directory.shapes import Sources
from eval.experiment import Experiment
from eval.tasks.materials import Materials, Scorer
from eval.tasks.sampled import digest_rows
from eval.workshop import content_hash

MOST_BELOW = 1000
"""Files that are looked at in the folders beside a function."""
_LOADED = (".json", ".safetensors", ".txt", ".model", ".tiktoken", ".jinja", ".py")
"""What models and tokenizers are made of; a README beside them may change."""
_GIVEN = ("train_prompts", "validation_prompts", "test_prompts", "heldout_pairs", "heldout_texts")
"""Rows of materials that no data seed draws where the data are the user's."""


# What a comparison compares --------------------------------------------------------------------------------


def check_inputs(
    path: Path, experiment: Experiment, data_seed: int, now: Materials, begun: Sequence[Materials]
) -> None:
    """Raises UserError where model, reward, judge or data are no longer what the comparison in `path` began with; of a data
    seed that it has not seen, notes them. `begun`: materials whose rows these have to have."""
    file = path / "sources.json"
    stored = read_shaped(file, Sources) if file.is_file() else {}
    found = {"model": _of_model("model", now.model)}
    found |= {
        name: _of_scorer(name, scorer) for name, scorer in (("reward", now.reward), ("judge", now.judge))
    }
    shared = ("model", "judge", *(("reward",) if experiment.reward else ()))
    other: dict[str, Any] = next(iter(stored.values()), {})
    before = stored.get(str(data_seed)) or {name: other[name] for name in shared if name in other}
    problems = {
        f"{name} {_where(source)}": what
        for name, source in before.items()
        if (what := _differing(source, found[name]))
    }
    if rows := list(dict.fromkeys(name for each in begun for name in _other_rows(experiment, each, now))):
        problems["data"] = [f"{', '.join(rows)} (from {_files(experiment)})"]
    if problems:
        raise UserError(_told(problems))
    if str(data_seed) not in stored:
        write_json(file, stored | {str(data_seed): found})


def mended(path: Path, experiment: Experiment) -> list[str]:
    """Of the reward and the judge that were given, those that are no longer what the comparison in `path` began with.
    Raises UserError where one is gone."""
    file = path / "sources.json"
    stored = read_shaped(file, Sources) if file.is_file() else {}
    begun: dict[str, Any] = next(iter(stored.values()), {})
    changed: list[str] = []
    for name in ("reward", "judge"):
        if getattr(experiment, name) and name in begun:
            where = _where(begun[name])
            now = _of_function(name, where) if names_function(where, name) else _of_model(name, where)
            changed += [name] if _differing(begun[name], now) else []
    return changed


def gone(materials: Materials) -> bool:
    """Whether a directory with the model, the reward or the judge is no longer there, as when the cache was cleared in
    which they were built."""
    places = [
        materials.model,
        *(one.where for one in (materials.reward, materials.judge) if one.kind == "model"),
    ]
    return any(Path(place).is_absolute() and not Path(place).exists() for place in places)


def _of_scorer(name: str, scorer: Scorer) -> dict[str, Any]:
    if scorer.kind == "gold":
        return {"where": scorer.where, "content": "part of this program"}
    return _of_function(name, scorer.where) if scorer.kind == "function" else _of_model(name, scorer.where)


def _of_model(name: str, where: str) -> dict[str, Any]:
    """Raises UserError where nothing is."""
    try:
        content = content_hash(Path(where), _LOADED) if Path(where).is_dir() else model_key(where)
    except (OSError, ValueError) as error:
        raise _missing(name, where, error) from error
    return {"where": where, "content": content}


def _of_function(name: str, where: str) -> dict[str, Any]:
    """Raises UserError where nothing is."""
    path = Path(where.rpartition(":")[0])
    try:
        beside = {file.relative_to(path.parent).as_posix(): file_hash(file) for file in _may_read(path)}
        return {"where": where, "content": file_hash(path), "beside": beside}
    except OSError as error:
        raise _missing(name, where, error) from error


def _missing(name: str, where: str, error: Exception) -> UserError:
    return UserError(
        f"the {name} {where} cannot be found: {one_line(error)} Put it back, or start another comparison."
    )


def _where(source: Any) -> str:
    return str(source["where"] if isinstance(source, Mapping) else source[0])


def _differing(before: Any, now: Mapping[str, Any]) -> list[str]:
    """What of a source is no longer as it was. Of one that was noted without the files beside it, nothing is said of them."""
    if not isinstance(before, Mapping):
        before = {"content": before[1], "beside": now.get("beside", {})}
    was, found = before.get("beside") or {}, now.get("beside") or {}
    others = [name for name in sorted({**was, **found}) if was.get(name) != found.get(name)]
    own = [] if before["content"] == now["content"] else ["its content"]
    return own + [f"{name} beside it" for name in others]


def _other_rows(experiment: Experiment, before: Materials, now: Materials) -> list[str]:
    """Rows that are not what they were. Pairs are compared where they were given: sampled ones differ by the data seed."""
    names = [*_GIVEN, *(["pairs"] if experiment.pairs else [])]
    return [name for name in names if digest_rows(getattr(before, name)) != digest_rows(getattr(now, name))]


def _files(experiment: Experiment) -> str:
    return (
        ", ".join(filter(None, (experiment.prompts, experiment.pairs, experiment.test_prompts))) or "the task"
    )


def _told(problems: Mapping[str, Sequence[str]]) -> str:
    """One line of all that differs."""
    (first, details), *others = problems.items()
    said = f"the {first} {_is(first)} not what this comparison began with: {_differ(first, details)}"
    said += "".join(f"; nor {_is(name)} the {name}: {_differ(name, whats)}" for name, whats in others)
    many = len(problems) > 1 or first == "data"
    back = "Put them back as they were" if many else "Put it back as it was"
    return f"{said}. {back}, or start another comparison with --out."


def _is(name: str) -> str:
    return "are" if name == "data" else "is"


def _differ(name: str, details: Sequence[str]) -> str:
    return f"{', '.join(details)} {'differ' if name == 'data' or len(details) > 1 else 'differs'}"


# What a cache knows ----------------------------------------------------------------------------------------


def model_key(model: str) -> str:
    """What a cache may know a model by: the content of a local one, the commit of one from the hub."""
    if Path(model).exists():
        return content_hash(Path(model))
    from algos.engine.hub import commit, repository_and_revision

    return f"{repository_and_revision(model)[0]}@{commit(model)}"


def reward_key(spec: str) -> str:
    """What a cache may know a reward that was loaded by: a model as any other, a function by its file and what it may read,
    and by name, size and time all files beside it: it may find them without naming them."""
    if not names_function(spec, "reward"):
        return model_key(spec)
    path = Path(spec.rpartition(":")[0]).resolve()  # as it is loaded
    known = _of_function("reward", f"{path}:")
    digest = hashlib.blake2b(repr((known["content"], known["beside"])).encode(), digest_size=16)
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


def _may_read(path: Path) -> list[Path]:
    """What the function in a Python file may read of the files beside it and below: modules that it imports, files and
    folders that its texts name, and what those modules import and name in turn. Not all that lies there: a log or reports
    beside a reward change with every run."""
    entries = [entry for entry in sorted(path.parent.iterdir()) if not entry.name.startswith(".")]
    waiting, found = [path], set[Path]()
    while waiting:
        words = _words(waiting.pop())
        new = {entry for entry in entries if entry != path and _named(entry, words)} - found
        found |= new
        waiting += [entry for entry in new if entry.suffix == ".py" and entry.is_file()]
    files = [entry for entry in sorted(found) if entry.is_file()]
    below = (file for entry in sorted(found) if entry.is_dir() for file in _below(entry))
    return [*files, *itertools.islice(below, MOST_BELOW)]


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
