"""The tries of tuning: what one was and came to, and which settings are tried next. Optuna is used here alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from algos import Algorithm
from algos.engine.seeding import derive
from eval.settings.layers import plain
from eval.settings.limits import TUNING_SEED
from eval.store import Run, Store
from eval.tuning.search import Choices, Range, Space, name_of, three_digits

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

OBJECTIVE = "reward/judge"
"""What a try is measured by: the primary metric, on validation prompts, at the end of its run."""

STARTUP = 4
"""So many tries are the arm's own settings and random ones. They depend on nothing and can run at the same time;
each later one depends on all before it, through Optuna's tree-structured Parzen estimator (Bergstra et al. 2011)."""


@dataclass(frozen=True)
class Try:
    """Some settings of an arm and what they came to."""

    number: int
    settings: dict[str, Any]
    status: Literal["done", "failed"]
    value: float | None
    """Mean of the objective over the try's runs; None where one of them failed."""
    error: str
    flops: float
    seconds: float


def read_try(tuning: Store, arm: str, number: int, space: Space) -> Try:
    """A finished try from its runs' files."""
    name = name_of(arm, number)
    runs = [tuning.run(name, seed) for seed in tuning.experiment.training_seeds]
    values = [_value(run) for run in runs]
    spent = [run.read("events")[-1:] for run in runs]
    errors = [f"seed {run.seed}: {run.status['error']}" for run in runs if run.status["status"] == "failed"]
    if not errors and not all(math.isfinite(value) for value in values):
        errors = [f"its {OBJECTIVE} is not a number"]
    return Try(
        number=number,
        settings={setting: plain(getattr(tuning.experiment.arm(name), setting)) for setting in space},
        status="failed" if errors else "done",
        value=None if errors else sum(values) / len(values),
        error="; ".join(errors),
        flops=sum(row["flops"] for rows in spent for row in rows),
        seconds=sum(row["seconds"] for rows in spent for row in rows),
    )


def _value(run: Run) -> float:
    """The objective at the end of a run; NaN where there is none."""
    rows = run.read("rows")
    found = rows[-1]["metrics"].get(OBJECTIVE) if rows else None
    return math.nan if found is None else float(found)


def best(tries: Sequence[Try]) -> Try | None:
    """The highest mean, of equal ones (but for rounding) the earliest; None where every try failed."""
    done = [(tried.value, tried) for tried in tries if tried.value is not None]
    highest = max((value for value, _ in done), default=math.nan)
    equal = [tried for value, tried in done if math.isclose(value, highest, rel_tol=1e-12, abs_tol=1e-12)]
    return min(equal, key=lambda tried: tried.number, default=None)


def next_settings(
    arm: Algorithm, name: str, number: int, space: Space, history: Sequence[Try]
) -> dict[str, Any]:
    """The settings of an arm's try `number` = 1, 2, …: first the arm's own, then what Optuna suggests.

    A function of the arm's name, the number and, beyond `STARTUP`, the tries before: whatever ran elsewhere, or
    before an interruption, does not matter.
    """
    if number == 1:
        return {setting: getattr(arm, setting) for setting in space}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {setting: _distribution(values) for setting, values in space.items()}
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=STARTUP, seed=derive(TUNING_SEED, "try", name, number) % 2**32
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials([_told(tried, distributions) for tried in history if number > STARTUP])
    suggested = study.ask(distributions).params
    return {setting: _readable(suggested[setting], space[setting]) for setting in space}


def _distribution(values: Range | Choices) -> BaseDistribution:
    from optuna import distributions

    if isinstance(values, Choices):
        return distributions.CategoricalDistribution(values.choices)
    if isinstance(values.low, int):
        return distributions.IntDistribution(values.low, int(values.high), log=values.log)
    return distributions.FloatDistribution(values.low, values.high, log=values.log)


def _told(tried: Try, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    state = TrialState.FAIL if tried.value is None else TrialState.COMPLETE
    return create_trial(
        state=state, value=tried.value, params=tried.settings, distributions=dict(distributions)
    )


def _readable(value: Any, values: Range | Choices) -> Any:
    """Three digits of a number, and within its range."""
    if not isinstance(value, float) or isinstance(values, Choices):
        return value
    return min(max(three_digits(value), values.low), values.high)
