"""What tuning makes of an experiment, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from algos import ALGORITHMS, Algorithm
from eval.experiment import Experiment
from eval.settings.layers import plain


def settled(
    experiment: Experiment, start: Mapping[str, Algorithm], chosen: Mapping[str, Mapping[str, Any]]
) -> Experiment:
    """The experiment whose arms in `start` have these settings with the chosen ones over them. What other arms inherit
    stays what it was: a variant is written out where it differs from what its algorithm has become. What is written
    over is kept under `before_tuning`."""
    wanted = experiment.arms | {name: replace(arm, **chosen[name]) for name, arm in start.items()}
    own = {name: arm for name, arm in wanted.items() if name in ALGORITHMS}
    hyperparameters = replace(experiment.hyperparameters, **own)
    variants = dict(experiment.variants)
    before = {
        name: {setting: plain(getattr(arm, setting)) for setting in chosen[name]}
        for name, arm in start.items()
        if name in ALGORITHMS
    }
    for name in [name for name in wanted if name in variants]:
        base = plain(getattr(hyperparameters, wanted[name].name))
        differing = {
            setting: value for setting, value in plain(wanted[name]).items() if value != base[setting]
        }
        before[name] = variants[name]
        variants[name] = variants[name] | differing | dict(chosen.get(name, {}))
    return replace(
        experiment,
        hyperparameters=hyperparameters,
        variants=variants,
        before_tuning=before | experiment.before_tuning,
    )


def unsettled(experiment: Experiment, hyperparameters: Any) -> Experiment:
    """The experiment as it was before its arms were tuned: `hyperparameters` are those that tuning began with."""
    own = {name: before for name, before in experiment.before_tuning.items() if name in experiment.variants}
    return replace(
        experiment,
        hyperparameters=hyperparameters,
        variants=experiment.variants | own,
        before_tuning={},
    )
