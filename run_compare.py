"""Compares REINFORCE, PPO and DPO on one model, data set, reward and budget, and writes a report.

rlhf-compare                                     the embedded task, three algorithms, three seeds
rlhf-compare --model DIR_OR_HUB_ID --prompts prompts.jsonl --reward my_reward.py:score
rlhf-compare --model DIR_OR_HUB_ID --pairs pairs.jsonl
rlhf-compare --resume reports/mine --seeds 10    go on where it was, with more seeds
rlhf-compare report reports/mine                 draw the report again
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eval.quiet import quiet

quiet()

from algos import ALGORITHMS, UserError  # noqa: E402 (libraries are told to be quiet before they are imported)
from eval.console import Console  # noqa: E402
from eval.experiment import Experiment, extended, layered, load_yaml  # noqa: E402
from eval.report.escape import for_terminal  # noqa: E402
from eval.store import Store, next_folder  # noqa: E402

if TYPE_CHECKING:
    from eval.plan import Shape


# A paragraph a line: the help page would join them.
_DESCRIPTION = "\n\n".join(line.strip() for line in (__doc__ or "").splitlines() if line.strip())


@dataclass(frozen=True)
class Options:
    """What to compare, and how to carry it out."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    beta: float | None = None
    """The KL coefficient of all arms; --ppo.beta and so on set one."""
    learning_rate: float | None = None
    """The learning rate of all arms; --ppo.learning-rate and so on set one."""
    columns: tuple[str, ...] = ()
    """Your names for the data's columns: prompt=question chosen=answer_a."""
    config: Path | None = None
    """A YAML file of settings, under those of the command line."""
    out: Path | None = None
    """The folder to write to; by default reports/<task>-<date>-<n>."""
    resume: Path | None = None
    """Go on with the comparison in this folder; --seeds and --algos +name may extend it."""
    workers: int = 0
    """Runs at the same time, each in a process of its own; 0: as many as cores allow."""
    cache: Path = Path("~/.cache/rlhf-compare")
    """Where base models, sampled pairs and reward models are kept for the next comparison."""
    list: bool = False
    """Show algorithms, tasks and metrics, and stop."""
    dry_run: bool = False
    """Show what would run and its nominal cost, and stop."""
    debug: bool = False
    """Show the traceback of an error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1 if a run failed, 2 for a mistake of the user's."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in args
    try:
        if args[:1] == ["report"]:
            return _redraw(args[1:])
        return _compare(args)
    except UserError as error:
        if debug:
            raise
        # A message may quote a file or a model: what it quotes must not drive the terminal.
        print(f"error: {for_terminal(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return 130


def _redraw(args: Sequence[str]) -> int:
    from eval.comparison import draw

    folders = [arg for arg in args if not arg.startswith("-")]
    if len(folders) != 1:
        raise UserError(
            f"report takes one folder; got {len(folders)}. Write: rlhf-compare report reports/mine"
        )
    print(draw(Store.open(Path(folders[0]))))
    return 0


def _compare(args: list[str]) -> int:
    options = parse(args)
    console = Console()
    if options.list:
        _list(console)
        return 0
    experiment = options.experiment
    if options.dry_run:
        _dry_run(experiment, console)
        return 0
    if options.resume is not None:
        store = Store.open(options.resume)
        store.asked = extended(store.asked, experiment)
        store.write_experiment()
    else:
        today = datetime.date.today().isoformat()
        store = Store.create(options.out or next_folder(Path("reports"), experiment.task, today), experiment)
    from eval.comparison import compare
    from eval.workshop import Workshop

    console.say(
        f"{len(experiment.algos)} arms × {experiment.seeds} seeds, budget {experiment.budget} each, into {store.path}"
    )
    try:
        report = compare(
            store, Workshop(options.cache.expanduser()), _workers(options), console, _command(args)
        )
    except KeyboardInterrupt:
        print(
            f"stopped; finished runs are kept. Go on with: rlhf-compare --resume {store.path}",
            file=sys.stderr,
        )
        return 130
    except UserError:
        if options.resume is None:
            store.discard()  # nothing has run: the mended command may use the same folder
        raise
    _summarise(Store.open(store.path), console)
    failed = [run.folder.name for run in store.all_runs if run.status["status"] != "done"]
    if failed:
        print(
            f"{len(failed)} of {len(store.all_runs)} runs failed: {', '.join(failed)}. The report says why.",
            file=sys.stderr,
        )
    print(f"report: {report}")
    return 1 if failed else 0


def parse(args: Sequence[str]) -> Options:
    """Defaults < the task's preset < YAML < command line. Raises UserError; a wrong option ends in tyro's box."""
    first = _before_parsing(args)
    named = load_yaml(first.config) if first.config else {}
    stored = Store.open(first.resume).asked.to_dict() if first.resume else None
    below = Experiment.from_dict(_layers(first, named, stored))
    if any(arg == "--algos" for arg in args):
        args = _expand_plus(args, below.algos)
    default = Options(experiment=below)
    options: Options = tyro.cli(
        Options,
        args=list(args),
        default=default,
        description=_DESCRIPTION,
        prog="rlhf-compare",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    columns = _columns(options.columns)
    return replace(options, experiment=replace(options.experiment, columns=columns)) if columns else options


def _before_parsing(args: Sequence[str]) -> argparse.Namespace:
    """The options that decide what the others' defaults are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--config", "--resume"):
        parser.add_argument(name, type=Path)
    for name in ("--task", "--model", "--prompts", "--pairs"):
        parser.add_argument(name)
    for name in ("--beta", "--learning-rate"):
        parser.add_argument(name, type=float)
    try:
        return parser.parse_known_args(list(args))[0]
    except argparse.ArgumentError as error:
        raise UserError(f"{error}.") from None


def _layers(
    first: argparse.Namespace, named: Mapping[str, Any], stored: Mapping[str, Any] | None
) -> dict[str, Any]:
    from eval.tasks import preset

    own = any(getattr(first, name) or named.get(name) for name in ("model", "prompts", "pairs"))
    task = first.task or named.get("task") or ("custom" if own else "reviews")
    shared = {
        name: getattr(first, name) for name in ("beta", "learning_rate") if getattr(first, name) is not None
    }
    if stored is not None:
        return layered(stored, named, shared)
    return layered(preset(task), named, {"task": task}, shared)


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


def _workers(options: Options) -> int:
    if options.workers < 0:
        raise UserError(
            f"--workers must be at least 0; got {options.workers}. 0 means as many as cores allow."
        )
    if options.workers:
        return options.workers
    import torch

    if torch.cuda.is_available() and options.experiment.device != "cpu":
        return 1  # runs that share one GPU would compete for its memory
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // options.experiment.threads_per_run)


def _command(args: Sequence[str]) -> str:
    return shlex.join(["rlhf-compare", *args])


def _list(console: Console) -> None:
    from eval.glossary import METRICS
    from eval.tasks import DESCRIPTIONS

    console.table(
        "Algorithms",
        ["name", "what it is"],
        [
            [name, (kind.__doc__ or "").split("\n\n")[0].replace("\n    ", " ")]
            for name, kind in ALGORITHMS.items()
        ],
    )
    console.table("Tasks", ["name", "what it is"], [list(item) for item in DESCRIPTIONS.items()])
    console.table(
        "Metrics", ["name", "unit", "definition"], [[m.name, m.unit, m.definition] for m in METRICS.values()]
    )


def _dry_run(experiment: Experiment, console: Console) -> None:
    from eval.plan import rows

    shape, pairs = _shape(experiment)
    columns = ["arm", "algorithm", "runs", "iterations a run", "completions a run", "FLOPs a run"]
    console.table(
        f"What would run (budget {experiment.budget} each)", columns, rows(experiment, shape, pairs)
    )
    print(
        f"model: {shape.parameters:,} parameters; counted with {shape.prompt_tokens:.0f} tokens a prompt and {shape.response_tokens:.0f} a response"
    )


def _shape(experiment: Experiment) -> tuple[Shape, int | None]:
    """What nominal cost depends on, from the task's description or the model's configuration."""
    if experiment.task == "reviews":
        from eval.tasks.reviews.task import shape

        return shape(experiment)
    from eval.tasks.custom.shape import shape as custom_shape

    return custom_shape(experiment)


def _summarise(store: Store, console: Console) -> None:
    from eval.report.tables import summary_text

    short = {
        "reward/judge": "judge",
        "reward/proxy": "proxy",
        "kl/sequence": "KL [nats]",
        "win_rate": "win rate",
        "cost/train_flops": "FLOPs",
        "cost/train_seconds": "time [s]",
    }
    table = summary_text(store, tuple(short))
    rows = [[str(arm), *cells] for arm, cells in zip(table.index, table.to_numpy().tolist(), strict=True)]
    # The costs' intervals are in the report; here they would only widen the table.
    rows = [[*row[:5], *(cell.partition(" ±")[0] for cell in row[5:])] for row in rows]
    console.table("At each arm's end: mean ± 95% interval over seeds", ["arm", *short.values()], rows)


if __name__ == "__main__":
    raise SystemExit(main())
