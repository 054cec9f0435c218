"""What the command prints besides how far it is: what there is, what would run, how each arm ended."""

from __future__ import annotations

from pathlib import Path

from algos import ALGORITHMS, Budget
from eval.console import Console
from eval.escape import for_terminal
from eval.experiment import Experiment
from eval.report.inputs import ReportInput
from eval.store import Store


def show_list(console: Console) -> None:
    """Algorithms, tasks and metrics."""
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


def show_plan(experiment: Experiment, begun: Path | None, workers: int, console: Console) -> None:
    """What would run, and the memory it needs; of a comparison that was `begun` in a folder what is missing there.

    Raises UserError for a new one that does not fit the machine.
    """
    from eval import plan
    from eval.memory import room
    from eval.process.workers import workers_for
    from eval.tasks import sizes_of

    sizes = sizes_of(experiment)
    runs = _missing(experiment, begun)
    asked_for = len(experiment.algos) * experiment.seeds
    columns = ["arm", "algorithm", "runs", "iterations a run", "completions a run", "FLOPs a run"]
    console.table(
        f"What would run (budget {Budget.parse(experiment.budget).told} each)",
        columns,
        plan.rows(experiment, sizes, runs),
    )
    if begun is not None:
        print(f"{asked_for - sum(runs.values())} of {asked_for} runs are there already")
    console.table(
        "Responses to be scored",
        ["for", "by the reward", "by the judge"],
        plan.scored(experiment, sizes, runs, begun is not None),
    )
    print(
        *filter(None, [plan.tuning(experiment, sizes)]),
        f"model: {sizes.parameters:,} parameters; counted with {sizes.prompt_tokens:.0f} tokens a prompt and {sizes.response_tokens:.0f} a response",
        sep="\n",
    )
    asked = experiment, sizes.longest_prompt, sizes.scorer_parameters
    with room.where_known(console.say):
        found = room.needs(*asked)
        console.table(
            "Memory a run needs", list(room.COLUMNS), room.rows(found, room.libraries(experiment.device))
        )
        if begun is None:
            room.require_room(*asked, room.at_once(experiment, workers_for(experiment, workers)))


def show_ends(comparison: ReportInput, console: Console) -> None:
    """What was measured of the terminal's few metrics, and the verdict."""
    from eval.format import titled
    from eval.report.numbers.tables import summary_text
    from eval.report.sections import verdict

    short = {
        "reward/judge": "judge",
        "reward/proxy": "proxy",
        "kl/sequence": "KL [nats]",
        "win_rate": "win rate",
        "cost/train_flops": "FLOPs",
        "cost/train_seconds": "time [s]",
    }
    table = summary_text(comparison, tuple(short))
    columns = {short[name]: table[titled(name)].tolist() for name in short if titled(name) in table}
    for name in ("FLOPs", "time [s]"):
        if name in columns:  # the costs' intervals are in the report; here they would only widen the table
            columns[name] = [cell.partition(" ±")[0] for cell in columns[name]]
    if columns:
        rows = [[str(arm), *cells] for arm, *cells in zip(table.index, *columns.values(), strict=True)]
        console.table("At each arm's end: mean ± 95% interval over seeds", ["arm", *columns], rows)
    told = verdict.read(comparison)
    if told.short:
        print(for_terminal(f"In short: {told.short}"))
    for sentence in told.sentences:
        print(f"- {for_terminal(sentence)}")
    if told.warnings:
        warned = (f"- {for_terminal(sentence)}" for sentence in told.warnings)
        print("\nBefore relying on this:", *warned, sep="\n")
    print()


def _missing(experiment: Experiment, begun: Path | None) -> dict[str, int]:
    """How many runs each arm still has to make: all of them, or those that a comparison which was begun has not done."""
    runs = dict.fromkeys(experiment.algos, experiment.seeds)
    if begun is not None:
        for run in Store.open(begun, experiment).all_runs:
            runs[run.arm] -= run.status["status"] == "done"
    return runs
