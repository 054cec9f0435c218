"""Whether what a comparison was begun with is still what it was.

Model, reward and judge lie where the user or the cache has them, where they may be changed or removed meanwhile:
`sources.json` keeps where they were and fingerprints of what was there. The rows of the user's data are in the
comparison's own materials, where later ones are compared with them.

A function may write files that it names, a log or a cache of answers: data files that change while a session uses it
are taken out of its fingerprint, and one that was not there as the comparison began never was in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from algos import UserError
from algos.engine.storage import file_hash, write_json
from eval.directory.reading import read_checked
from eval.directory.schemas import Sources
from eval.experiment import Experiment
from eval.stages.cache import content_hash
from eval.tasks.fingerprints import Hashes, beside, is_module, missing, model_key, names_function
from eval.tasks.materials import Materials, Scorer
from eval.tasks.sampled import digest_rows

_LOADED = (".json", ".safetensors", ".txt", ".model", ".tiktoken", ".jinja", ".py")
"""What models and tokenizers are made of; a README beside them may change."""
_GIVEN = ("train_prompts", "validation_prompts", "test_prompts", "heldout_pairs", "heldout_texts")
"""Rows of materials that no data seed draws where the data are the user's."""

_Sources = dict[str, Any]
"""Model, reward and judge by name: where each is, and fingerprints of what is there."""


class FunctionFiles:
    """The files of a reward and a judge that are functions, as a session finds them before it calls one, without the data
    that change as it does."""

    def __init__(self, path: Path, experiment: Experiment) -> None:
        """`path`: the comparison's directory. A function whose file is not there is told of where it is asked for."""
        self.path = path
        self.hashed = Hashes()
        self.found: dict[Path, dict[str, Any]] = {}
        self.written: dict[str, set[str]] = {}
        """By the function's file: names beside it, of files and folders, whose data have changed since."""
        for name in ("reward", "judge"):
            spec = getattr(experiment, name)
            if spec and names_function(spec, name) and _file_of(spec).is_file():
                self.of(name, spec)

    def of(self, name: str, where: str) -> dict[str, Any]:
        """The fingerprint of the function at `where`. Raises UserError where nothing is."""
        try:
            file = _file_of(where).resolve()
            if file not in self.found:
                self.found[file] = {"content": file_hash(file), "beside": beside(file, self.hashed)}
        except (OSError, ValueError) as error:
            raise missing(name, where, error) from error
        return {"where": where, **self.found[file]}

    def note(self) -> list[str]:
        """Takes data that have changed since the session began out of the fingerprints, those in sources.json, too.
        Returns their names."""
        new: list[str] = []
        for file, found in self.found.items():
            try:
                now = beside(file, self.hashed)
            except OSError:  # as where somebody is saving it
                continue
            changed = {_top(name) for name in _changed(found["beside"], now) if not is_module(name)}
            new += [f"{name} beside {file.name}" for name in sorted(changed)]
            self.written.setdefault(str(file), set()).update(changed)
            found["beside"] = _without(found["beside"], changed)
        self._forget_written()
        return new

    def _forget_written(self) -> None:
        stored = _stored(self.path)
        left = {
            seed: {name: self._left_of(source) for name, source in sources.items()}
            for seed, sources in stored.items()
        }
        if left != stored:
            write_json(self.path / "sources.json", left)

    def _left_of(self, source: Mapping[str, Any]) -> Mapping[str, Any]:
        if not source.get("beside"):
            return source
        written = self.written.get(str(_file_of(source["where"])), set())
        return {**source, "beside": _without(source["beside"], written)}


def check_inputs(
    functions: FunctionFiles,
    experiment: Experiment,
    data_seed: int,
    now: Materials,
    must_have_the_rows_of: Sequence[Materials],
) -> None:
    """Raises UserError where the model, reward, judge or data of the materials `now` are no longer what the comparison of
    `functions` began with; of a data seed that it has not seen, remembers them."""
    stored = _stored(functions.path)
    found = {
        "model": _of_model("model", now.model),
        "reward": _of_scorer("reward", now.reward, functions),
        "judge": _of_scorer("judge", now.judge, functions),
    }
    expected = _expected(stored, experiment, data_seed)
    problems = _differences(expected, found)
    rows = [name for each in must_have_the_rows_of for name in _other_rows(experiment, each, now)]
    if rows:
        problems["data"] = [f"{', '.join(dict.fromkeys(rows))} (from {_files(experiment)})"]
    if problems:
        raise UserError(_told(problems))
    if str(data_seed) not in stored:
        write_json(functions.path / "sources.json", stored | {str(data_seed): _remembered(expected, found)})


def _expected(stored: Mapping[str, _Sources], experiment: Experiment, data_seed: int) -> _Sources:
    """The sources that a data seed began with. One that is new shares those of the first that it does not draw itself: a
    reward is learned anew where none was given."""
    if str(data_seed) in stored:
        return dict(stored[str(data_seed)])
    first = next(iter(stored.values()), {})
    shared = ("model", "judge", *(("reward",) if experiment.reward else ()))
    return {name: first[name] for name in shared if name in first}


def _differences(expected: _Sources, found: _Sources) -> dict[str, list[str]]:
    """What is no longer as it was, by source."""
    differing = {name: _otherwise(source, found[name]) for name, source in expected.items()}
    return {f"{name} {expected[name]['where']}": what for name, what in differing.items() if what}


def _remembered(expected: _Sources, found: _Sources) -> _Sources:
    """What a new data seed begins with. Of a function what there was as the comparison began: what has appeared beside it
    since, it may have written itself."""
    return found | {name: source for name, source in expected.items() if "beside" in found[name]}


def changed_functions(functions: FunctionFiles, experiment: Experiment) -> list[str]:
    """Of the reward and the judge that were given, those that are no longer what the comparison of `functions` began with.
    Raises UserError where one is gone."""
    begun: dict[str, Any] = next(iter(_stored(functions.path).values()), {})
    changed: list[str] = []
    for name in ("reward", "judge"):
        if getattr(experiment, name) and name in begun:
            where = begun[name]["where"]
            now = functions.of(name, where) if names_function(where, name) else _of_model(name, where)
            changed += [name] if _otherwise(begun[name], now) else []
    return changed


def models_missing(materials: Materials) -> bool:
    """Whether a directory with the model, the reward or the judge is no longer there, as when the cache was cleared in
    which they were built."""
    places = [
        materials.model,
        *(one.where for one in (materials.reward, materials.judge) if one.kind == "model"),
    ]
    return any(Path(place).is_absolute() and not Path(place).exists() for place in places)


def _stored(path: Path) -> dict[str, _Sources]:
    """sources.json, by data seed; empty where there is none yet."""
    file = path / "sources.json"
    return read_checked(file, Sources) if file.is_file() else {}


def _of_scorer(name: str, scorer: Scorer, functions: FunctionFiles) -> dict[str, Any]:
    if scorer.kind == "gold":
        return {"where": scorer.where, "content": "part of this program"}
    return functions.of(name, scorer.where) if scorer.kind == "function" else _of_model(name, scorer.where)


def _of_model(name: str, where: str) -> dict[str, Any]:
    """Raises UserError where nothing is."""
    try:
        content = content_hash(Path(where), _LOADED) if Path(where).is_dir() else model_key(where)
    except (OSError, ValueError) as error:
        raise missing(name, where, error) from error
    return {"where": where, "content": content}


def _file_of(where: str) -> Path:
    return Path(where.rpartition(":")[0])


def _otherwise(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of a source is no longer as it was."""
    own = [] if before["content"] == now["content"] else ["its content"]
    others = _changed(before.get("beside", {}), now.get("beside", {}))
    return own + [f"{name} beside it" for name in others]


def _changed(was: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Modules that differ, and data of files and folders that there were."""
    there = {_top(name) for name in was if not is_module(name)}
    return [
        name
        for name in sorted({**was, **found})
        if was.get(name) != found.get(name) and (is_module(name) or _top(name) in there)
    ]


def _without(files: Mapping[str, str], names: set[str]) -> dict[str, str]:
    """Files beside a function without the data of those names, each of a file or a folder with all that is in it."""
    return {name: content for name, content in files.items() if is_module(name) or _top(name) not in names}


def _top(name: str) -> str:
    return name.partition("/")[0]


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
