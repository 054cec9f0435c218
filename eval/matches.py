"""Win rates of every two arms, seed by seed: the stored samples of finished runs, judged once and kept."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from algos import RunError, UserError
from algos.engine.calls import RewardCalls
from algos.engine.storage import write_json
from eval.directory.runs import Run
from eval.judge import Judge, wins
from eval.store import Store
from eval.tasks.materials import Materials, Scorer

PATIENCE = 600.0  # seconds that a judge which fails may take from a report for which all else is there

Match = tuple[str, int, str]
"""Arm, seed, and the arm after it that it is held against: the other's win rate is what is left to 1."""


def update_matches(store: Store, materials: Materials, say: Callable[[str], None]) -> None:
    """Adds to matches.json what is missing there: the share of responses of the first arm that the judge
    prefers to the second's to the same prompts.

    What the judge does not give stays missing, which is said in a line; the next call asks again. Raises DamagedFile
    for a run's samples that are not what was written.
    """
    prompts, known = len(materials.test_prompts), store.matches
    done = [run for run in store.all_runs if run.status["status"] == "done"]
    samples = {(run.arm, run.seed): store.responses(run, prompts) for run in done}
    found: dict[Match, float | None] = {
        (arm, seed, other): known.get(f"{arm}-s{seed}", {}).get(other)
        for arm, other in itertools.combinations(store.experiment.algos, 2)
        for seed in store.experiment.training_seeds
        if (arm, seed) in samples and (other, seed) in samples
    }
    try:
        problem = _ask(found, samples, materials, store.experiment.reward_calls)
    finally:  # an answer may have cost minutes: it is kept, whatever ended the asking
        rows: dict[str, dict[str, float]] = {run.folder.name: {} for run in done}
        for (arm, seed, other), value in found.items():
            if value is not None:
                rows[f"{arm}-s{seed}"][other], rows[f"{other}-s{seed}"][arm] = value, 1 - value
        write_json(store.path / "matches.json", rows)
    if problem:
        lacking = sum(value is None for value in found.values())
        say(f"no win rate in {lacking} of {len(found)} matches, for which --resume asks again: {problem}")


def forget_matches(store: Store, runs: Collection[Run]) -> None:
    """Takes runs out of matches.json before they are made again: their samples may be others."""
    again = {(run.arm, run.seed) for run in runs}
    known = store.matches
    kept = {
        run.folder.name: {
            other: value for other, value in known[run.folder.name].items() if (other, run.seed) not in again
        }
        for run in store.all_runs
        if run.folder.name in known and (run.arm, run.seed) not in again
    }
    if kept != known:
        write_json(store.path / "matches.json", kept)


def _ask(
    found: dict[Match, float | None],
    samples: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]],
    materials: Materials,
    calls: RewardCalls,
) -> str:
    """Fills in what is None. Returns why some still is, or nothing."""
    missing = [wanted for wanted, value in found.items() if value is None]
    if not missing:
        return ""
    try:
        judge = _opened(materials.judge, calls)
    except UserError as error:
        return str(error)
    problem, lost = "", 0.0
    for arm, seed, other in missing:
        rows = [materials.test_prompts[record["prompt_id"]] for record in samples[arm, seed]]
        begun = time.monotonic()
        try:
            found[arm, seed, other] = wins(judge, rows, samples[arm, seed], samples[other, seed])
        except RunError as error:  # the next pair may be judged all the same
            problem, lost = str(error), lost + time.monotonic() - begun
            if lost > PATIENCE:
                break
    return problem


def _opened(scorer: Scorer, calls: RewardCalls) -> Judge:
    """The judge, without its weights where it is a model: its scores are stored with the samples."""
    return Judge(_unread, scorer.title) if scorer.kind == "model" else scorer.judge("cpu", calls)


def _unread(**_: Any) -> NoReturn:
    raise AssertionError("a judge that scores is not asked again")
