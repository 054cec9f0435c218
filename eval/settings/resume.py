"""What may change where a comparison is gone on with: it may grow, and how it is carried out may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from algos import ALGORITHMS, UserError
from eval.experiment import Experiment
from eval.settings.layers import plain
from eval.settings.paths import PLACES, anchored, same_place

CARRIED_OUT = ("log_with", "reward_timeout", "reward_retries", "checkpoint_every")
"""How, not what: no result depends on it."""


def extended(stored: Experiment, asked: Experiment) -> Experiment:
    """A stored comparison with more seeds or arms, carried out as asked now. Raises UserError where anything else differs."""
    asked, there = _as_chosen(stored, asked), anchored(stored)
    same = [name for name in PLACES if same_place(getattr(stored, name), getattr(asked, name))]
    asked = replace(asked, **{name: getattr(there, name) for name in same})
    for setting in fields(Experiment):
        before, now = getattr(stored, setting.name), getattr(asked, setting.name)
        if setting.name == "variants":  # one that has run must stay as it was
            now = {name: now.get(name) for name in before}
        if setting.name not in ("seeds", "algos", *same, *CARRIED_OUT) and before != now:
            was, got = _what_differs(plain(before), plain(now))
            raise UserError(
                f"this comparison was made with {setting.name} = {was}; got {got}. "
                "Resume with the same settings (seeds, algorithms and variants may grow; "
                f"{', '.join(CARRIED_OUT)} may change), or name another folder with --out."
            )
    return replace(
        asked, seeds=max(asked.seeds, stored.seeds), algos=tuple(dict.fromkeys((*stored.algos, *asked.algos)))
    )


def _as_chosen(stored: Experiment, asked: Experiment) -> Experiment:
    """What tuning chose, where what it began with is asked: the arguments that made a comparison also resume it."""
    own, variants = {}, dict(asked.variants)
    for name, before in stored.before_tuning.items():
        if name in ALGORITHMS:
            arm, chosen = asked.arm(name), plain(stored.arm(name))
            same = [setting for setting, value in before.items() if plain(getattr(arm, setting)) == value]
            own[name] = replace(arm, **{setting: chosen[setting] for setting in same})
        elif name in variants:
            now, chosen = variants[name], stored.variants[name]
            same = [
                setting for setting in before if setting in chosen and now.get(setting) == before[setting]
            ]
            variants[name] = now | {setting: chosen[setting] for setting in same}
    return replace(asked, hyperparameters=replace(asked.hyperparameters, **own), variants=variants)


def _what_differs(before: Any, now: Any) -> tuple[Any, Any]:
    """Both, mappings without what is the same in them."""
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return before, now
    keys = [key for key in {**before, **now} if before.get(key, ...) != now.get(key, ...)]
    pairs = {key: _what_differs(before.get(key), now.get(key)) for key in keys}
    return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}
