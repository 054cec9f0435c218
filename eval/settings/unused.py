"""What is asked for and read by nothing here, told in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from eval.experiment import Experiment


def unused(asked: Experiment, stored: Experiment | None) -> tuple[str, ...]:
    """A sentence for variants that are no arms, and one for settings without what they belong to. `stored`: a comparison
    that is gone on with; of what it has already all was said when it was made."""
    return (*_variants(asked, stored), *(_settings(asked) if stored is None else ()))


def _variants(asked: Experiment, stored: Experiment | None) -> Iterator[str]:
    names = [name for name in asked.unused_variants if stored is None or name not in stored.variants]
    if len(names) > 1:
        yield f"variants {', '.join(names)} are no arms here: algos does not name them"
    elif names:
        yield f"variant {names[0]} is no arm here: algos does not name it"


def _settings(asked: Experiment) -> Iterator[str]:
    """Of the built-in task those of data and rewards are refused (`eval.settings.checks`); the report's configuration leaves
    the same out (`details._resolved`)."""
    plain = Experiment(task=asked.task)
    idle = (
        (not asked.lora, ("lora_settings",), "without --lora"),
        (not asked.tune, ("tune_seeds", "search"), "without --tune"),
        (not asked.samples_pairs, ("sampled_pairs", "label_scale"), f"here: {_no_sampling(asked)}"),
        (not asked.learns_reward, ("reward_model",), "here: with --reward no reward model is trained"),
    )
    for without, names, why in idle:
        given = [told for name in names for told in _given(name, getattr(asked, name), getattr(plain, name))]
        if without and given:
            yield f"{', '.join(given)} {'has' if len(given) == 1 else 'have'} no effect {why}"


def _no_sampling(asked: Experiment) -> str:
    return "pairs are given, so none are sampled" if asked.pairs else "no arm learns from pairs"


def _given(name: str, value: Any, default: Any) -> Iterator[str]:
    """A setting that is not as it would be, with its value; of a part every such one of its own."""
    if is_dataclass(value):
        for key, own in vars(value).items():
            yield from _given(f"{name}.{key}", own, getattr(default, key))
    elif value != default:
        yield name if isinstance(value, dict) else f"{name} {value}"
