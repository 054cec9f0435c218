"""The command line's arguments → what to compare and how to carry it out.

Defaults < the task's preset < YAML < command line; then sweeps become arms, and a resumed comparison is extended.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from algos import ALGORITHMS, UserError
from eval.escape import for_terminal
from eval.experiment import Draft, Experiment
from eval.process.refusals import disk_told
from eval.settings.layers import ELSEWHERE, judged_alone, layered, load_yaml
from eval.settings.limits import WORKERS, at_most
from eval.settings.paths import anchored
from eval.settings.resume import extended
from eval.settings.sweep import expanded, read_sweeps
from eval.settings.unused import unused
from eval.store import Store


@dataclass(frozen=True)
class Options:
    """What to compare, and how to carry it out."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    beta: float | None = None
    """The KL coefficient of all arms; --ppo.beta and so on set one."""
    learning_rate: float | None = None
    """The learning rate of all arms; --ppo.learning-rate and so on set one."""
    sweep: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """Make one arm for each value of a setting: beta=0.05,0.1 (all algorithms) or ppo.clip_range=0.1,0.2 (one). Repeat --sweep to get every combination."""
    columns: tuple[str, ...] = ()
    """Your names for the data's columns: prompt=question chosen=answer_a."""
    config: Path | None = None
    """A YAML file of settings; the command line overrides it."""
    out: Path | None = None
    """The folder to write to; by default reports/<task>-<date>-<n>."""
    resume: Path | None = None
    """Continue the comparison in this folder. Seeds, algorithms and variants may be added (--seeds, --algos +name, --sweep); --log-with, --reward-timeout, --reward-retries and --checkpoint-every may change."""
    workers: int = 0
    """Runs at the same time, each in a process of its own; 0: as many as cores allow on a CPU, 1 on a GPU."""
    cache: Path = Path("~/.cache/rlhf-compare")
    """Where base models, sampled pairs and reward models are kept for the next comparison."""
    list: bool = False
    """Show algorithms, tasks and metrics, and stop."""
    dry_run: bool = False
    """Show what would run and its nominal cost, and stop."""
    offline: bool = False
    """Do not contact any hub: a model or data set that is not on this machine is an error."""
    debug: bool = False
    """Show the traceback of an error."""
    notes: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """What is to be said of the arguments before anything runs."""

    def __post_init__(self) -> None:
        at_most(self.workers, WORKERS, "--workers")


def parse(args: Sequence[str], description: str = "") -> Options:
    """Raises UserError; a wrong option ends in tyro's box."""
    args = _hyphenated(args)
    _refuse_foreign(args)
    first = _before_parsing(args)
    first.config, first.resume = _at_home(first.config), _at_home(first.resume)
    named = load_yaml(first.config) if first.config else {}
    sweeps = named.pop("sweep", {})
    stored = _stored(first.resume) if first.resume else None
    # A file may say what goes together only with what the command line says over it.
    below = _trusting_nobody(first, Draft.from_dict(_layers(first, named, stored)))
    if any(arg == "--algos" for arg in args):
        args = _expand_plus(args, below.algos)
    options: Options = tyro.cli(
        Options,
        args=list(args),
        default=Options(experiment=_shown(below) if {"-h", "--help"} & set(args) else below),
        description=description,
        prog="rlhf-compare",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    asked = _finished(options.experiment, _columns(options.columns))
    idle = unused(asked, stored)
    asked, notes = expanded(asked, read_sweeps(sweeps, [text for texts in options.sweep for text in texts]))
    asked = anchored(asked)
    asked = extended(stored, asked) if stored else asked
    options = replace(options, experiment=asked, notes=(*idle, *notes))
    return _checked(options)


def _finished(draft: Experiment, columns: dict[str, str]) -> Experiment:
    """With nothing more to lay over it. Raises UserError for settings out of their range or that do not go together."""
    settings = {setting.name: getattr(draft, setting.name) for setting in fields(Experiment)}
    return Experiment(**settings | ({"columns": columns} if columns else {}))


def _checked(options: Options) -> Options:
    """With the home directory for a ~. Raises UserError for folders that cannot be what they are named for."""
    if options.resume and options.out:
        raise UserError(
            f"--resume goes on in {options.resume}; got --out {options.out}, too. Leave one out: for another comparison "
            f"of the same settings name --config {options.resume / 'experiment.yaml'}."
        )
    cache = options.cache.expanduser()
    above = next((place for place in (cache, *cache.parents) if place.exists()), cache)
    if above.exists() and not above.is_dir():
        raise UserError(f"--cache must be a folder; got {cache}, where {above} is a file. Name another.")
    return replace(options, cache=cache, out=_at_home(options.out), resume=_at_home(options.resume))


def _hyphenated(args: Sequence[str]) -> list[str]:
    """The arguments with hyphens in all names of options: tyro takes `--learning_rate`, too; what is read
    before it does not. Values stay as they are, and what follows a bare `--`."""
    end = _end_of_options(args)
    # What begins so is an option for tyro, never the value of the one before.
    name = re.compile(r"\A--[A-Za-z][^=]*")
    return [*(name.sub(lambda found: found[0].replace("_", "-"), arg) for arg in args[:end]), *args[end:]]


def _end_of_options(args: Sequence[str]) -> int:
    return args.index("--") if "--" in args else len(args)


def _refuse_foreign(args: Sequence[str]) -> None:
    """Raises UserError for what other libraries call an option of ours: tyro would propose what is spelt like it."""
    for arg in args[: _end_of_options(args)]:
        name = arg.partition("=")[0].removeprefix("--")
        *where, word = name.split(".")
        if arg.startswith("--") and where != ["eval"] and (reason := judged_alone(word)):
            raise UserError(f"there is no option --{name}: {reason}")
        ours = ELSEWHERE.get(word.replace("-", "_"))
        if ours is None or not arg.startswith("--"):
            continue
        having = [algorithm for algorithm, kind in ALGORITHMS.items() if hasattr(kind, ours)]
        if len(where) == 1 and where[0] in having:
            places = where
        else:  # also where the part that is named has no such setting
            places = [""] if len(having) in (0, len(ALGORITHMS)) else having
        options = [f"{place}.{ours}".strip(".").replace("_", "-") for place in places]
        raise UserError(f"there is no option --{name}; here it is --{' or --'.join(options)}.")


def _before_parsing(args: Sequence[str]) -> argparse.Namespace:
    """The options that decide what the others' defaults are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--config", "--resume"):
        parser.add_argument(name, type=Path)
    for name in ("--task", "--model", "--prompts", "--pairs"):
        parser.add_argument(name)
    for name in ("--beta", "--learning-rate"):
        parser.add_argument(name, type=float)
    parser.add_argument("--trust-remote-code", action="store_true")
    try:
        return parser.parse_known_args(list(args))[0]
    except argparse.ArgumentError as error:
        raise UserError(f"{error}.") from None


def _stored(folder: Path) -> Experiment:
    with disk_told(folder, resumed=False):
        return Store.open(folder).experiment


def _at_home(path: Path | None) -> Path | None:
    """`--resume=~/mine`, which no shell reads."""
    return path and path.expanduser()


def _layers(first: argparse.Namespace, named: Mapping[str, Any], stored: Experiment | None) -> dict[str, Any]:
    from eval.tasks import preset

    own = any(getattr(first, name) or named.get(name) for name in ("model", "prompts", "pairs"))
    task = first.task or named.get("task") or ("custom" if own else "reviews")
    shared = {
        name: getattr(first, name) for name in ("beta", "learning_rate") if getattr(first, name) is not None
    }
    if stored is not None:
        return layered(stored.to_dict(), named, shared)
    pairs = bool(first.pairs or named.get("pairs"))
    return layered(preset(task, pairs), named, {"task": task}, shared)


def _trusting_nobody(first: argparse.Namespace, below: Draft) -> Draft:
    """A file may be a stranger's: that code is run which comes with a model is for the command line alone to say."""
    if below.trust_remote_code and not first.trust_remote_code:
        raise UserError(
            f"{first.config or first.resume} wants code to be run that comes with the model. Pass --trust-remote-code, "
            "too, if you trust its author to run code on this machine."
        )
    return replace(below, trust_remote_code=False)


def _shown(draft: Draft) -> Draft:
    """For the help page, which shows a file's settings as defaults: nothing in them drives the terminal."""

    def visible(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: visible(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [visible(inner) for inner in value]
        return for_terminal(value) if isinstance(value, str) else value

    return Draft.from_dict(visible(draft.to_dict()))


def _expand_plus(args: Sequence[str], present: tuple[str, ...]) -> list[str]:
    """`--algos +name` adds to the arms that are there."""
    start = list(args).index("--algos") + 1
    stop = next((i for i in range(start, len(args)) if args[i].startswith("--")), len(args))
    names = args[start:stop]
    if not any(name.startswith("+") for name in names):
        return list(args)
    return [*args[:start], *dict.fromkeys([*present, *(name.lstrip("+") for name in names)]), *args[stop:]]


def _columns(items: Sequence[str]) -> dict[str, str]:
    pairs = [item.partition("=") for text in items for item in text.split(",") if item]
    wrong = [ours for ours, equals, theirs in pairs if not (ours and equals and theirs)]
    if wrong:
        raise UserError(f"--columns takes ours=yours, such as prompt=question; got {wrong[0]!r}.")
    return {ours: theirs for ours, _, theirs in pairs}
