"""A comparison's directory: what was asked, every run's rows and samples, and what is still missing.

experiment.yaml  environment.json  facts.json  sources.json  index.json
materials/<data seed>/   prompts, pairs, reward and judge: what all arms share
base/            metrics.json, samples.jsonl: the model before any training
runs/<arm>-s<seed>/   events.jsonl, rows.jsonl, samples.jsonl, checkpoint/, policy/, status.json
matches.json     win rates of every two arms
tuning/          a comparison of its own, whose arms are the tries; choice.json: what they came to
frontier/        pool.json, pool.safetensors: many answers of every policy to the same prompts
frontier.drawn/  what there is of them until all are there
results.parquet  results.csv  figures/  report.md  report.html
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from algos import UserError
from algos.engine.errors import one_line
from algos.engine.storage import (
    DamagedFile,
    atomic_directory,
    clear_leftovers,
    disk,
    write_json,
    write_text,
)
from eval.directory import tidy
from eval.directory.integrity import (
    FILES,
    Integrity,
    check_sealed,
    refuse_code_inside,
    refuse_links,
    refuse_taken,
    sealed,
)
from eval.directory.lock import held
from eval.directory.reading import read_checked, read_jsonl, whole
from eval.directory.run_schemas import Sample
from eval.directory.runs import Run, as_jsonl, finite
from eval.directory.schemas import BaseMetrics
from eval.experiment import Experiment
from eval.process.refusals import disk_told
from eval.settings.layers import load_yaml

if TYPE_CHECKING:
    import pandas as pd

    from eval.frontier.pool import Pool
    from eval.tasks.materials import Materials

logger = logging.getLogger(__name__)


class Store:
    """Opens or creates a comparison's directory. Satisfies `eval.report.inputs.ReportInput`."""

    def __init__(self, path: Path, experiment: Experiment) -> None:
        self.path = path
        self.experiment = experiment
        """What is compared: it may be more than experiment.yaml has, until that is committed."""
        self.integrity = Integrity(path)

    @classmethod
    def create(cls, path: Path, experiment: Experiment) -> Store:
        """Raises UserError where the folder holds anything: nothing is overwritten."""
        refuse_taken(path)
        path.mkdir(parents=True, exist_ok=True)
        store = cls(path, experiment)
        store.integrity.begin()
        store.commit(experiment)
        return store

    @classmethod
    def open(cls, path: Path, grown: Experiment | None = None) -> Store:
        """`grown`: what it is to become, with more arms or seeds than experiment.yaml has.

        Raises UserError where there is no comparison, and DamagedFile where its experiment is not what was written.
        """
        file = path / "experiment.yaml"
        if not file.is_file():
            raise UserError(
                f"{path} holds no comparison: there is no experiment.yaml in it. Name a folder that a comparison was written to."
            )
        refuse_links(path)
        check_sealed(file)
        values = load_yaml(file)
        try:
            stored = Experiment.from_dict(values)
            return cls(path, stored if grown is None else grown)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error

    @classmethod
    @contextmanager
    def creating(cls, path: Path, experiment: Experiment) -> Iterator[Store]:
        """`create`, and the block in which this process, and no other, writes the comparison."""
        refuse_taken(path)  # before anything is put there
        with held(path, "comparison"), disk_told(path):
            clear_leftovers(path)
            yield cls.create(path, experiment)

    @classmethod
    @contextmanager
    def resuming(cls, path: Path, grown: Experiment | None = None) -> Iterator[Store]:
        """`open`, and the block in which this process, and no other, writes the comparison.

        Raises DamagedFile for a file that is not what was written; one that can be made again and is gone is
        named in a warning.
        """
        cls.open(path)  # before anything is put there
        with held(path, "comparison"), disk_told(path):
            clear_leftovers(path)
            store = cls.open(path, grown)
            for unit in store.gone():
                logger.warning("%s was written but is gone: it is made again.", path / unit)
            for run in store.all_runs:
                run.tidy()
            yield store

    @classmethod
    def reading(cls, path: Path) -> Store:
        """`open`, where all that was written is there and is what was written. Raises DamagedFile."""
        store = cls.open(path)
        for unit in store.gone():
            if not unit.startswith("runs/"):  # a run that was removed is missing, and the report says so
                raise DamagedFile(
                    f"{path / unit} was written but is gone. Go on with --resume {path}: it is made again."
                )
        return store

    def gone(self) -> list[str]:
        """What was written and has been removed whole. Raises DamagedFile for a file that is not what was written."""
        tuning = self.path / "tuning"
        if (tuning / "experiment.yaml").is_file():
            Store.open(tuning).integrity.check()
        return self.integrity.check()

    def discard(self) -> None:
        """Removes a comparison that was created but in which nothing has run; of a folder that is reached through a link what
        is in it. Raises nothing: it is called because something else went wrong."""
        if any((self.path / place).exists() for place in ("runs", "tuning/runs")):
            return
        try:
            for found in self.path.iterdir():
                disk.remove(found)
            if not self.path.is_symlink():
                self.path.rmdir()
        except OSError as error:
            logger.warning("%s could not be removed: %s.", self.path, one_line(error))

    @property
    def evaluated(self) -> bool:
        """Whether a run, or a try of tuning, has come to an evaluation of its own: point 0 is the base's. Tries that all
        failed have been chosen from, too."""
        folders = [*self.path.glob("runs/*"), *self.path.glob("tuning/runs/*")]
        runs = [Run(folder.name, 0, folder) for folder in folders]
        return bool(self.tuning) or any(row["point"] > 0 for run in runs for row in run.read("rows"))

    def begin_again(self) -> None:
        """Removes all that was made, for a comparison in which nothing was evaluated: what was asked stays."""
        self.integrity.begin()
        # The sources last: what they tell of is made anew as long as they are there.
        made = (
            "runs",
            "tuning",
            "base",
            "frontier",
            "frontier.drawn",
            "matches.json",
            "facts.json",
            "materials",
            "sources.json",
        )
        for place in made:
            disk.remove(self.path / place)

    def commit(self, experiment: Experiment) -> None:
        """What is asked from now on, in experiment.yaml, too."""
        self.experiment = experiment
        text = yaml.safe_dump(experiment.to_dict(), sort_keys=False, allow_unicode=True)
        write_text(self.path / "experiment.yaml", sealed(text))

    def materials(self, data_seed: int) -> Materials:
        """What the arms share, as it was when the comparison began."""
        from eval.tasks.materials import Materials

        found = Materials.load(self.path / "materials" / str(data_seed))
        if found is None:
            raise UserError(
                f"{self.path} has no materials for data seed {data_seed}. Go on with --resume {self.path}, which makes them."
            )
        for scorer in (found.reward, found.judge):
            refuse_code_inside(self.path, scorer.where)
        return found

    def run(self, arm: str, seed: int) -> Run:
        return Run(arm, seed, self.path / "runs" / f"{arm}-s{seed}")

    @property
    def all_runs(self) -> list[Run]:
        """Every run asked for, seed by seed, so that a stopped comparison is balanced."""
        return [
            self.run(arm, seed) for seed in self.experiment.training_seeds for arm in self.experiment.algos
        ]

    def responses(self, run: Run, prompts: int) -> list[dict[str, Any]]:
        """A finished run's samples, one for each of the base's and to one of so many prompts. Raises DamagedFile."""
        samples = run.read("samples")
        found, asked = (
            [(row["prompt_id"], row["sample"]) for row in rows] for rows in (samples, self.base_samples)
        )
        if not found or found != asked or max(found)[0] >= prompts:
            raise DamagedFile(
                f"{run.folder / 'samples.jsonl'} does not answer the prompts that the base answers. Remove {run.folder} "
                f"and go on with --resume {self.path}: it is made again."
            )
        return samples

    # What the report reads.

    @property
    def settings(self) -> dict[str, Any]:
        return self.experiment.to_dict()

    @property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json")

    @property
    def facts(self) -> dict[str, Any]:
        return self._json("facts.json")

    @property
    def base_metrics(self) -> dict[str, float]:
        folder = whole(self.path / "base")
        return {} if folder is None else read_checked(folder / "metrics.json", BaseMetrics)

    @property
    def base_samples(self) -> list[dict[str, Any]]:
        folder = whole(self.path / "base")
        return [] if folder is None else read_jsonl(folder / "samples.jsonl", Sample)

    def write_base(self, metrics: Mapping[str, float], samples: Iterable[Mapping[str, Any]]) -> None:
        with atomic_directory(self.path / "base") as temporary:
            (temporary / "samples.jsonl").write_text(as_jsonl(samples), encoding="utf-8")
            write_json(temporary / "metrics.json", finite(metrics))

    @property
    def matches(self) -> dict[str, Any]:
        return self._json("matches.json")

    @cached_property
    def results(self) -> pd.DataFrame:
        return tidy.results(self._keyed, self.base_metrics, self.matches)

    @cached_property
    def events(self) -> pd.DataFrame:
        return tidy.events(self._keyed)

    @cached_property
    def samples(self) -> pd.DataFrame:
        return tidy.samples(self._keyed, self.base_samples)

    @property
    def runs(self) -> pd.DataFrame:
        return tidy.runs(self._keyed)

    @property
    def _keyed(self) -> tidy.Keyed:
        algorithms = {name: arm.name for name, arm in self.experiment.arms.items()}
        return [
            (run, {"arm": run.arm, "algorithm": algorithms[run.arm], "seed": run.seed})
            for run in self.all_runs
        ]

    @property
    def pool(self) -> Pool | None:
        """The samples that the frontier is made of, where they were drawn."""
        from eval.frontier.pool import Pool

        return Pool.load(self.path / "frontier")

    @property
    def tuning(self) -> dict[str, Any]:
        return self._json("tuning/choice.json")

    def _json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        return read_checked(file, FILES[name]) if file.is_file() else {}


def next_folder(reports: Path, task: str, date: str) -> Path:
    """`reports/<task>-<date>-<n>`, the first n that is free."""
    n = 1
    while (reports / f"{task}-{date}-{n}").exists():
        n += 1
    return reports / f"{task}-{date}-{n}"
