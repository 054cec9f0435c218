"""Sweeps: the values of a setting as arms of their own, written out as variants."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import yaml

from algos import ALGORITHMS, Algorithm, UserError
from eval.experiment import Experiment
from eval.settings.bounded_yaml import parse_yaml
from eval.settings.layers import build, plain, suggestion
from eval.settings.limits import ARMS, at_most


@dataclass(frozen=True)
class Sweep:
    """A setting, its values, and whose it is: an algorithm's, an arm's, or, without a name, all arms'."""

    setting: str
    values: tuple[Any, ...]
    whose: str = ""

    @property
    def key(self) -> str:
        return f"{self.whose}.{self.setting}" if self.whose else self.setting


def read_sweeps(stored: Any, given: Sequence[str]) -> tuple[Sweep, ...]:
    """The sweeps of a YAML file's `sweep: {beta: [0.05, 0.1]}` and, over them, those of texts `beta=0.05,0.1`.

    Raises UserError for what is no sweep, and for a setting that the texts name twice.
    """
    if not isinstance(stored, Mapping):
        raise UserError(f"sweep must hold values by setting, such as {{beta: [0.05, 0.1]}}; got {stored!r}.")
    below = [_sweep(str(key), values) for key, values in stored.items()]
    above = [_from_text(text) for text in given]
    for sweep in above:
        if sum(other.key == sweep.key for other in above) > 1:
            raise UserError(
                f"{sweep.key} is swept twice. Give all its values at once: {sweep.key}=0.05,0.1,0.3."
            )
    return tuple({sweep.key: sweep for sweep in (*below, *above)}.values())


def _from_text(text: str) -> Sweep:
    key, _, values = text.partition("=")
    if not key or not values:
        raise UserError(f"--sweep takes a setting and its values, such as beta=0.05,0.1; got {text!r}.")
    if not all(value.strip() for value in values.split(",")):
        raise UserError(f"--sweep {text!r} has a value that is empty. Write beta=0.05,0.1.")
    try:
        return _sweep(key, [parse_yaml(value) for value in values.split(",")])
    except yaml.YAMLError:
        raise UserError(f"cannot read the values of --sweep {text!r}. Write them as in YAML.") from None


def _sweep(key: str, values: Any) -> Sweep:
    if not isinstance(values, list) or not values:
        raise UserError(f"sweep {key} must be a list of values, such as [0.05, 0.1]; got {values!r}.")
    whose, _, setting = key.rpartition(".")
    return Sweep(setting.replace("-", "_"), tuple(values), whose)


def expanded(experiment: Experiment, sweeps: Sequence[Sweep]) -> tuple[Experiment, tuple[str, ...]]:
    """Every arm that a sweep concerns replaced by one arm a value (of several sweeps, one a combination), and in
    plain sentences what was left out.

    `ppo` swept over β is `ppo-beta-0.05`, `ppo-beta-0.1`, …, each written out under `variants`. A sweep of one arm
    or algorithm goes before one of all; a variant's own settings are not swept unless it is named. Arms that an
    earlier sweep of the same settings made are taken for what they were made from, so that sweeping again adds values.
    Raises UserError for an unknown setting or arm, a value the algorithm refuses or that is there twice, and a sweep
    that concerns no arm.
    """
    if not sweeps:
        return experiment, ()
    _check_names(experiment, sweeps)
    origins = tuple(dict.fromkeys(_origin(experiment, name, sweeps) for name in experiment.algos))
    concerning = {name: _concerning(experiment, name, sweeps) for name in origins}
    for sweep in sweeps:
        if not any(sweep in found for found in concerning.values()):
            raise UserError(
                f"sweep {sweep.key} concerns none of the arms {', '.join(experiment.algos)}. Name an arm that has the "
                "setting with --algos, or leave the sweep out."
            )
    variants, algos = dict(experiment.variants), list[str]()
    for name, found in concerning.items():
        made = _arms(experiment, name, found) if found else {}
        variants |= {new: _unless_other(variants.get(new), settings, new) for new, settings in made.items()}
        algos += made or [name]
    swept = replace(experiment, algos=tuple(dict.fromkeys(algos)), variants=variants)
    return swept, _passed_by(experiment, sweeps, concerning)


def _check_names(experiment: Experiment, sweeps: Sequence[Sweep]) -> None:
    known_arms = [*ALGORITHMS, *experiment.variants]
    for sweep in sweeps:
        if sweep.whose and sweep.whose not in known_arms:
            raise UserError(
                f"unknown algorithm {sweep.whose!r} in sweep {sweep.key}{suggestion(sweep.whose, known_arms)} "
                f"Use one of {', '.join(known_arms)}."
            )
        kinds = [type(experiment.arm(sweep.whose))] if sweep.whose else list(ALGORITHMS.values())
        known = list(dict.fromkeys(name for kind in kinds for name in _settings(kind)))
        if sweep.setting not in known:
            raise UserError(
                f"unknown setting {sweep.setting!r} in sweep {sweep.key}{suggestion(sweep.setting, known)} "
                f"Known here: {', '.join(known)}."
            )


def _settings(kind: type[Algorithm]) -> list[str]:
    return [setting.name for setting in fields(kind)]


def _concerning(experiment: Experiment, name: str, sweeps: Sequence[Sweep]) -> list[Sweep]:
    """The sweeps of an arm, one a setting, in the order in which its algorithm declares the settings."""
    arm, own = experiment.arm(name), experiment.named_by(name)
    found: dict[str, Sweep] = {}
    for whose in ("", arm.name, name):
        for sweep in sweeps:
            if sweep.whose == whose and (whose == name or sweep.setting not in own):
                found[sweep.setting] = sweep
    return [found[setting] for setting in _settings(type(arm)) if setting in found]


def _arms(experiment: Experiment, name: str, sweeps: Sequence[Sweep]) -> dict[str, dict[str, Any]]:
    """One variant a combination of values, by name; the arm itself where nothing is swept."""
    arm, own = experiment.arm(name), experiment.named_by(name)
    if not experiment.tune:  # Arms that are not tuned take the rest from the one that was.
        own = experiment.variants.get(name, {})
    count = math.prod(len(sweep.values) for sweep in sweeps)
    at_most(count, ARMS, f"the number of arms that sweeps make of {name}")
    values = [_values(arm, sweep) for sweep in sweeps]
    found = {}
    for combination in itertools.product(*values):
        swept = {sweep.setting: value for sweep, value in zip(sweeps, combination, strict=True)}
        found[name + _suffix(swept)] = {"algorithm": arm.name, **own, **swept}
    return found


def _values(arm: Algorithm, sweep: Sweep) -> list[Any]:
    """As the algorithm takes them: 0.10 is 0.1."""
    found: list[Any] = []
    for value in sweep.values:
        built = build(type(arm), {**asdict(arm), sweep.setting: value}, f"sweep.{arm.name}")
        taken = plain(getattr(built, sweep.setting))
        if taken in found:
            raise UserError(f"sweep {sweep.key} has {value} twice. Name each value once.")
        found.append(taken)
    return found


def _origin(experiment: Experiment, name: str, sweeps: Sequence[Sweep]) -> str:
    """What an arm of an earlier sweep of the same settings was made from; any other arm itself."""
    arm, own = experiment.arm(name), experiment.named_by(name)
    settings = {sweep.setting for sweep in sweeps} & set(own)
    origin = name.removesuffix(_suffix({s: own[s] for s in _settings(type(arm)) if s in settings}))
    if origin not in (*ALGORITHMS, *experiment.variants) or experiment.arm(origin).name != arm.name:
        return name
    return (
        origin if settings <= {sweep.setting for sweep in _concerning(experiment, origin, sweeps)} else name
    )


def _suffix(settings: Mapping[str, Any]) -> str:
    return "".join(f"-{setting.replace('_', '-')}-{_word(value)}" for setting, value in settings.items())


def _word(value: Any) -> str:
    """A value as part of a name: 0.05, 1e-5, none, leave_one_out."""
    if isinstance(value, list):
        return "-".join(map(_word, value))
    if isinstance(value, float):
        return re.sub(r"e([+-])0*", lambda match: "e" + match[1].strip("+"), repr(value).removesuffix(".0"))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _unless_other(there: Mapping[str, Any] | None, settings: dict[str, Any], name: str) -> dict[str, Any]:
    """What is under this name already, which may hold more (what tuning chose); an arm of other settings is an error."""
    if there is None:
        return settings
    if any(there.get(setting, ...) != value for setting, value in settings.items()):
        raise UserError(
            f"a sweep would make the arm {name!r}, but there is another variant of this name. Rename that one."
        )
    return dict(there)


def _passed_by(
    experiment: Experiment, sweeps: Sequence[Sweep], concerning: Mapping[str, Sequence[Sweep]]
) -> tuple[str, ...]:
    """A sentence for each sweep of all arms that some arm does not take part in."""
    said = []
    for sweep in (sweep for sweep in sweeps if not sweep.whose):
        others = [
            name for name, found in concerning.items() if sweep.setting not in {s.setting for s in found}
        ]
        without = [name for name in others if sweep.setting not in _settings(type(experiment.arm(name)))]
        own = [name for name in others if name not in without]
        said += [f"no {sweep.setting} to sweep in {', '.join(without)}"] if without else []
        said += [f"{', '.join(own)} keeps the {sweep.setting} of its own"] if own else []
    return tuple(said)
