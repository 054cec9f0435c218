"""What an experiment may be, whichever way it was given: its settings' ranges, and what must hold between them."""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from algos import ALGORITHMS, Algorithm, UserError
from algos.engine.algorithm import require
from algos.engine.calls import RewardCalls
from eval.settings.layers import build, suggestion
from eval.settings.limits import TUNING_SEED, check_arm, check_limits, check_tries
from eval.tuning.search import corners, name_of

if TYPE_CHECKING:
    from eval.experiment import Experiment

LONGEST_NAME = 150
"""Characters of an arm's name."""

NOT_FOR_REVIEWS = ("test_prompts", "columns", "on_bad_row", "sampled_pairs", "label_scale", "reward_model")
"""What only the task custom reads: reviews has prompts, pairs and a reward model of its own. The report leaves it out of
the configuration, too."""


def check(experiment: Experiment) -> None:
    """Raises UserError for a setting out of its range, and for settings that do not go together."""
    check_limits(experiment)
    _check_ranges(experiment)
    if experiment.task == "reviews":
        _check_reviews(experiment)
    for name in experiment.variants:
        _check_name(name, experiment.tune)
    for name, arm in experiment.arms.items():
        check_arm(name, arm)
        _check_group_size(experiment, name, arm)
    for name in experiment.unused_variants:
        check_arm(name, experiment.arm(name))
    _check_tuning(experiment)


def _check_reviews(experiment: Experiment) -> None:
    if any((experiment.model, experiment.prompts, experiment.pairs, experiment.reward, experiment.judge)):
        raise UserError(
            "the task reviews brings its own model, data, reward and judge; got some of yours. Use --task custom."
        )
    for setting in (each for each in fields(experiment) if each.name in NOT_FOR_REVIEWS):
        made = setting.default_factory
        given, untouched = getattr(experiment, setting.name), setting.default if made is MISSING else made()
        if given != untouched:
            raise UserError(
                f"the task reviews brings its own prompts, pairs and reward model; got {_named(setting.name, given, untouched)}. "
                "Leave it out, or use --task custom."
            )


def _named(name: str, given: Any, untouched: Any) -> str:
    """A setting with its value; of a part the first that is not as it would be."""
    if not is_dataclass(given):
        return f"{name} {given}"
    return next(f"{name}.{key} {own}" for key, own in vars(given).items() if own != vars(untouched)[key])


def _check_ranges(experiment: Experiment) -> None:
    """Of settings that no part of the experiment checks itself."""
    algos, beta = experiment.algos, experiment.objective_beta
    require(experiment.seeds >= 1, "seeds", "at least 1", experiment.seeds)
    require(experiment.first_seed >= 0, "first_seed", "at least 0", experiment.first_seed)
    require(experiment.data_seed >= 0, "data_seed", "at least 0", experiment.data_seed)
    require(len(algos) >= 1, "algos", "at least one arm", "none")
    # Their runs' folders would be one where a file system does not tell ppo from PPO.
    different = len({name.casefold() for name in algos}) == len(algos)
    require(different, "algos", "each named once, in whatever case", " ".join(algos))
    require(experiment.sampled_pairs >= 2, "sampled_pairs", "at least 2", experiment.sampled_pairs)
    scale = experiment.label_scale
    require(0 < scale < math.inf, "label_scale", "above 0 and finite", scale)
    require(beta is None or 0 < beta < math.inf, "objective_beta", "above 0 and finite", beta)
    require(experiment.threads_per_run >= 1, "threads_per_run", "at least 1", experiment.threads_per_run)
    require(experiment.micro_batch >= 0, "micro_batch", "at least 0", experiment.micro_batch)
    require(experiment.checkpoint_every >= 0, "checkpoint_every", "at least 0", experiment.checkpoint_every)
    experiment.eval.sampling(experiment.sampling.max_new_tokens)  # checks its prefix
    RewardCalls(experiment.reward_timeout, experiment.reward_retries)  # checks its settings


def _check_name(name: str, tries: int) -> None:
    """Of a variant, which becomes a folder's name, as do its tries'."""
    taken = name in (*ALGORITHMS, "base")
    require(not taken, "a variant's name", "one of its own, not an algorithm's nor base", repr(name))
    longest = LONGEST_NAME - len(name_of("", tries)) * (tries > 0)
    fit = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) and len(name) <= longest
    tuned = f" where --tune {tries} adds to it" if tries else ""
    allowed = f"at most {longest} letters, digits, '_', '.' and '-'{tuned}"
    require(bool(fit), "a variant's name", allowed, f"{name[:60]!r} ({len(name)})")


def _check_group_size(experiment: Experiment, name: str, arm: Algorithm) -> None:
    wanted, given = arm.needs.min_group_size, experiment.sampling.group_size
    if arm.needs.source == "prompts" and given < wanted:
        raise UserError(
            f"{name} needs at least {wanted} responses a prompt; got {given}. Set --group-size {wanted}."
        )


def _check_tuning(experiment: Experiment) -> None:
    require(experiment.tune >= 0, "tune", "at least 0", experiment.tune)
    require(experiment.tune_seeds >= 1, "tune_seeds", "at least 1", experiment.tune_seeds)
    known = [*ALGORITHMS, *experiment.variants]
    for setting in ("search", "before_tuning"):
        for name in getattr(experiment, setting):
            if name not in known:
                raise UserError(
                    f"unknown arm '{setting}.{name}'{suggestion(name, known)} Use one of {', '.join(known)}."
                )
    for name, before in experiment.before_tuning.items():
        settings = {setting: value for setting, value in before.items() if setting != "algorithm"}
        arm = experiment.arm(name)
        build(type(arm), {**asdict(arm), **settings}, f"before_tuning.{name}")
    spaces = {name: experiment.space(name) for name in experiment.untuned}
    widths = [len({*experiment.named_by(name), *space}) for name, space in spaces.items()]
    if widths:
        check_tries(len(experiment.algos), experiment.tune, experiment.tune_seeds, max(widths))
    for name, space in spaces.items():
        for arm in corners(experiment.arm(name), space, name):
            check_arm(f"search.{name}", arm)
            _check_group_size(experiment, name, arm)
    if experiment.tune:
        last = experiment.training_seeds[-1]
        allowed = f"below {TUNING_SEED}, where those of tuning begin"
        require(last < TUNING_SEED, "training seeds", allowed, last)
