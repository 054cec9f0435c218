"""Compares REINFORCE, PPO and DPO on one model, data set, reward and budget, and writes a report.

rlhf-compare                                     the built-in task, three algorithms, three seeds
rlhf-compare --model DIR_OR_HUB_ID --prompts prompts.jsonl --reward my_reward.py:score
rlhf-compare --model DIR_OR_HUB_ID --pairs pairs.jsonl
rlhf-compare --sweep beta=0.02,0.05,0.1,0.3      an arm for each value
rlhf-compare --tune 8                            first choose each algorithm's settings, on validation prompts
rlhf-compare --resume reports/mine --seeds 10    continue it, with more seeds
rlhf-compare report reports/mine                 rebuild the report

Defaults shown are those of the built-in task; add --task custom (or --model) to see those for your own data.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from eval.process.quiet import quiet

quiet()

from algos import Budget, UserError  # noqa: E402 (libraries are told to be quiet before they are imported)
from eval.console import Console  # noqa: E402
from eval.escape import for_terminal  # noqa: E402
from eval.opening import creating, discard, resuming  # noqa: E402
from eval.process.offline import go_offline, refuse_hub_ids  # noqa: E402
from eval.process.refusals import disk_told, nobody_reads  # noqa: E402
from eval.recording.trackers import require_trackers  # noqa: E402
from eval.report.commands import repeat, resume  # noqa: E402
from eval.settings.arguments import Options, parse  # noqa: E402
from eval.store import Run, Store, next_folder  # noqa: E402
from eval.terminal import show_ends, show_list, show_plan  # noqa: E402

# A paragraph a line: the help page would join them.
_DESCRIPTION = "\n\n".join(line.strip() for line in (__doc__ or "").splitlines() if line.strip())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1 if a run failed or nobody reads the output any more (`| head`), 2 for
    a mistake of the user's, 130 after Ctrl-C."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in args
    try:
        try:
            return _redraw(args[1:]) if args[:1] == ["report"] else _compare(args)
        finally:
            sys.stdout.flush()  # here, where a closed pipe is no error yet
    except UserError as error:
        if debug:
            raise
        # A message may quote a file or a model: what it quotes must not drive the terminal.
        print(f"error: {for_terminal(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not nobody_reads():
            raise
        # Python writes what is left in its buffer as it ends, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _redraw(args: Sequence[str]) -> int:
    from eval.drawing import draw

    folder = _folder_to_redraw(args)
    with disk_told(folder, resumed=False):
        report = draw(Store.reading(folder))
    print(for_terminal(str(report)))
    return 0


def _folder_to_redraw(args: Sequence[str]) -> Path:
    """What follows `report`: a folder and options."""
    parser = argparse.ArgumentParser(
        prog="rlhf-compare report", usage="%(prog)s [-h] [--debug] FOLDER", allow_abbrev=False, exit_on_error=False,
        description="Draws the report of a comparison again, from the files in its folder.",
    )  # fmt: skip
    # Any number, so that a wrong one is said here, as other mistakes are.
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="the comparison's folder")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    write = "Write: rlhf-compare report reports/mine"
    try:
        found, unknown = parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}. {write}") from None
    options = [arg for arg in unknown if arg.startswith("-")]
    if options:
        raise UserError(f"report has no option {options[0]}; it has --debug and --help. {write}")
    folders = [*found.folders, *unknown]
    if len(folders) != 1:
        raise UserError(f"report takes one folder; got {len(folders)}. {write}")
    return Path(folders[0])


def _compare(args: list[str]) -> int:
    options = parse(args, _DESCRIPTION)
    console = Console()
    if options.list:
        show_list(console)
        return 0
    experiment = options.experiment
    if options.offline:
        go_offline()
        refuse_hub_ids(experiment)
    for note in options.notes:
        console.say(note)
    require_trackers(experiment.log_with)
    if options.dry_run:
        show_plan(experiment, options.resume, options.workers, console)
        return 0
    if options.resume is None:
        _require_room(options, console)
    with _opened(options) as store:
        return _carry_out(store, options, console, _command(args))


@contextmanager
def _opened(options: Options) -> Iterator[Store]:
    """The comparison to make or to go on with, which nobody else writes meanwhile."""
    if options.resume is not None:
        # What is asked is written once what it needs is there.
        with resuming(options.resume, options.experiment) as store:
            yield store
        return
    today = datetime.date.today().isoformat()
    folder = options.out or next_folder(Path("reports"), options.experiment.task, today)
    with creating(folder, options.experiment) as store:
        yield store


def _carry_out(store: Store, options: Options, console: Console, command: str) -> int:
    try:
        report = _compared(store, options, console, command)
    except KeyboardInterrupt:
        unwritten = options.resume is not None and Store.open(store.path).experiment != store.experiment
        again = command if unwritten else resume(store)
        print(
            f"stopped; what is finished or saved is kept. Go on with: {for_terminal(again)}", file=sys.stderr
        )
        return 130
    except Exception:
        if options.resume is None:
            discard(store.path)  # where nothing has run, the same command, mended if need be, may use it
        raise
    show_ends(Store.open(store.path), console)
    failed = [run for run in store.all_runs if run.status["status"] != "done"]
    if failed:
        print(
            f"{len(failed)} of {len(store.all_runs)} runs failed: {', '.join(run.folder.name for run in failed)}. "
            f"The report says why. Run them again with: {for_terminal(resume(store))}{_unless_mended(store, failed)}",
            file=sys.stderr,
        )
    print(f"report: {for_terminal(str(report))}")
    return 1 if failed else 0


def _compared(store: Store, options: Options, console: Console, command: str) -> Path:
    """The report's path."""
    from eval.comparison import compare
    from eval.format import counted
    from eval.memory.room import at_once
    from eval.process.workers import Workers, workers_for
    from eval.stages.cache import ArtefactCache

    asked = store.experiment
    count = workers_for(asked, options.workers)
    console.say(
        f"{counted(len(asked.algos), 'arm')} × {counted(asked.seeds, 'seed')}, budget {Budget.parse(asked.budget).told} each, into {store.path}"
    )
    with Workers(count, asked.device, at_once(asked, count)) as workers:
        return compare(store, ArtefactCache(options.cache), workers, console, command)


def _unless_mended(store: Store, failed: Sequence[Run]) -> str:
    """What else to do where a reward or judge failed: one that is mended is another, once something has been evaluated."""
    blamed = any(str(run.status.get("error", "")).startswith(("the reward", "the judge")) for run in failed)
    if not blamed or not store.evaluated:
        return ""
    return f"; with a reward or judge that has been mended, make another comparison: {for_terminal(repeat(store))}"


def _require_room(options: Options, console: Console) -> None:
    """Raises UserError for what cannot fit the machine. What cannot be estimated is not refused."""
    from eval.tasks import sizes_of

    experiment = options.experiment
    try:
        sizes = sizes_of(experiment, quick=True)
    except Exception:  # what is wrong with model or data is said where all of it is read
        return
    from eval.memory.room import at_once, require_room, where_known
    from eval.process.workers import workers_for

    with where_known(console.say):
        workers = at_once(experiment, workers_for(experiment, options.workers))
        require_room(experiment, sizes.longest_prompt, sizes.scorer_parameters, workers)


def _command(args: Sequence[str]) -> str:
    return shlex.join(["rlhf-compare", *args])


if __name__ == "__main__":
    raise SystemExit(main())
