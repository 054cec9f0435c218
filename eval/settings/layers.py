"""Settings as plain data: layers of them, YAML files, and dataclasses built from them, validated."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import yaml

from algos import ALGORITHMS, UserError
from algos.engine.errors import one_line
from eval.settings.bounded_yaml import MAX_CHARACTERS, parse_yaml

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SHARED = ("beta", "learning_rate")
"""Settings that, named without an algorithm, are meant for all of them."""

SHORT = (*SHARED, *ALGORITHMS, "sweep")
"""What a file may name at the top, beside the settings of a comparison."""


def build(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """A dataclass from plain data, validated by pydantic; unknown keys are errors. Raises UserError.

    Where a setting is text, a number stands for its digits, as on the command line: `budget: 2000`.
    """
    from pydantic import ValidationError

    _refuse_unknown(kind, values, where)
    try:
        return _adapter(kind).validate_python(_digits_as_text(kind, values))
    except ValidationError as error:
        first = error.errors()[0]
        place, given = ".".join([where, *map(str, first["loc"])]).strip("."), first["input"]
        raise UserError(
            f"{place}{_wanted(first['type'], first['msg'], given)}; got {_shown(given)}."
        ) from None


def _wanted(kind: str, message: str, given: Any) -> str:
    """What pydantic refuses, in the words of YAML where its own are Python's."""
    if kind == "tuple_type":
        return " must be a list" + (f", such as [{given}]" if isinstance(given, (str, int, float)) else "")
    if kind in ("dict_type", "dataclass_type"):
        return f" takes {'settings' if kind == 'dataclass_type' else 'values'} by name"
    return f": {message}"


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {setting.name: hints[setting.name] for setting in fields(kind)}


def _part(hint: Any) -> bool:
    """Whether a setting of this type is a dataclass of settings."""
    return isinstance(hint, type) and is_dataclass(hint)


def _digits_as_text(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    def fitting(hint: Any, value: Any) -> Any:
        if _part(hint) and isinstance(value, Mapping):
            return _digits_as_text(hint, value)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return str(value) if number and hint is str else value

    hints = _hints(kind)
    return {key: fitting(hints[key], value) for key, value in values.items()}


def _refuse_unknown(kind: type, values: Mapping[str, Any], where: str) -> None:
    """And true and false where a number is wanted, which pydantic would take for 1 and 0."""
    hints = _hints(kind)
    for key, value in values.items():
        place = f"{where}.{key}".strip(".")
        if key not in hints:
            if where != "eval" and (reason := judged_alone(str(key))):
                raise UserError(f"unknown setting {place!r}: {reason}")
            raise UserError(f"unknown setting {place!r}{_near(kind, str(key), where)} {_known(kind)}")
        kinds = set(get_args(hints[key]) or (hints[key],)) - {type(None)}
        if isinstance(value, bool) and kinds <= {int, float}:
            raise UserError(f"{place} takes a number; got {str(value).lower()}.")
        if _part(hints[key]) and isinstance(value, Mapping):
            _refuse_unknown(hints[key], value, place)


def _near(kind: type, key: str, where: str) -> str:
    """How the sentence about an unknown setting ends, which may be written as on the command line."""
    word = key.replace("-", "_")
    *above, name = word.split(".")
    if above:
        there = _descended(kind, above)
        close = _closest(name, list(_hints(there))) if there else None
        return f"; did you mean {close} under {' under '.join(reversed(above))}?" if close else "."
    others = [other for other in (*_hints(kind), *_short(kind)) if other != key]
    further = "" if word in others else _further_down(kind, word, where)
    return further or suggestion(word, others)


def _descended(kind: type, names: Sequence[str]) -> type | None:
    """The settings that stand below these names, where there are any; an algorithm's stand at the top, too."""
    for name in names:
        part = ALGORITHMS[name] if name in _short(kind) and name in ALGORITHMS else _hints(kind).get(name)
        if part is None or not _part(part):
            return None
        kind = part
    return kind


def _known(kind: type) -> str:
    also = f"; in a file also {', '.join(short)}" if (short := _short(kind)) else ""
    return f"Known here: {', '.join(_hints(kind))}{also}."


def _short(kind: type) -> tuple[str, ...]:
    """The names that stand at the top of a file without being settings of `kind`: a comparison has them."""
    return SHORT if "hyperparameters" in _hints(kind) else ()


def _further_down(kind: type, key: str, where: str) -> str:
    """As `suggestion`, where a single part of these settings has one of this very name, else nothing:
    `--group-size` on the command line is `sampling: {group_size: …}` in a file."""
    owners = list(_owners(kind, key, where))
    return f"; did you mean '{owners[0]}.{key}' ({key} under {owners[0]})?" if len(owners) == 1 else ""


def _owners(kind: type, key: str, where: str) -> Iterator[str]:
    for name, hint in _hints(kind).items():
        if _part(hint):
            place = f"{where}.{name}".strip(".")
            if key in _hints(hint):
                yield place
            yield from _owners(hint, key, place)


ELSEWHERE = {
    "lr": "learning_rate", "kl_coef": "beta", "cliprange": "clip_range", "epsilon": "clip_range", "lam": "gae_lambda",
    "critic_learning_rate": "value_learning_rate", "num_generations": "group_size",
    "max_completion_length": "max_new_tokens", "response_length": "max_new_tokens",
}  # fmt: skip
"""What TRL and others call settings that are known here."""


def judged_alone(word: str) -> str:
    """Of a filter of samples, which others have in training, too, why it is none of its settings here and whose it is;
    empty for any other word."""
    name = word.replace("-", "_")
    if name not in ("top_p", "top_k"):
        return ""
    return (
        "what is learned from is drawn from the whole distribution, of which ratios and KL are made. For the responses "
        f"that are judged set eval.{name} (--eval.{name.replace('_', '-')})."
    )


def suggestion(word: str, known: Sequence[str]) -> str:
    """How a sentence about an unknown word ends: `; did you mean 'x'?` where something known is near, else a full stop."""
    close = _closest(word, known)
    return f"; did you mean {close!r}?" if close else "."


def _closest(word: str, known: Sequence[str]) -> str | None:
    if ELSEWHERE.get(word) in known:
        return ELSEWHERE[word]
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.6)), None)


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping. Raises UserError where it is missing, not YAML, out of bounds or not a mapping."""
    try:
        with path.open(encoding="utf-8") as file:
            values = parse_yaml(file.read(MAX_CHARACTERS + 1))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Name a YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML of settings: {one_line(error).rstrip('.')}.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold settings by name; got {type(values).__name__}.")
    return values


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, later layers over earlier ones. In every layer a shared setting (`beta`,
    `learning_rate`) stands for all algorithms, and an algorithm may be named at the top (`ppo: …`)."""
    result: dict[str, Any] = {}
    for layer in layers:
        values = dict(layer)
        _refuse_scalars(values)
        own = {name: dict(values.pop(name)) for name in ALGORITHMS if isinstance(values.get(name), Mapping)}
        shared = {name: values.pop(name) for name in SHARED if name in values}
        if shared or own:
            nested = {name: {**shared, **own.get(name, {})} for name in ALGORITHMS}
            values["hyperparameters"] = _merged(nested, values.get("hyperparameters", {}))
        result = _merged(result, values)
    return result


def _refuse_scalars(values: Mapping[str, Any]) -> None:
    """Raises UserError where an algorithm has something else than settings by name."""
    for name in ("hyperparameters", *ALGORITHMS):
        if not isinstance(values.get(name, {}), Mapping):
            known = _hints(ALGORITHMS[name]) if name in ALGORITHMS else ALGORITHMS
            raise UserError(
                f"{name} takes settings by name; got {_shown(values[name])}. Known here: {', '.join(known)}."
            )


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result


def plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as what YAML and JSON hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {setting.name: plain(getattr(value, setting.name)) for setting in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
