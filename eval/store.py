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

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from algos import UserError
from algos.engine.storage import DamagedFile, atomic_directory, disk, write_json, write_text
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
from eval.directory.reading import read_checked, read_jsonl, whole
from eval.directory.run_schemas import Sample
from eval.directory.runs import Run, as_jsonl, finite
from eval.directory.schemas import BaseMetrics
from eval.experiment import Experiment
from eval.settings.bounded_yaml import dump_yaml
from eval.settings.layers import load_yaml

if TYPE_CHECKING:
    import pandas as pd

    from eval.frontier.pool import Pool
    from eval.tasks.materials import Materials


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
    def reading(cls, path: Path) -> Store:
        """`open`, where all that was written is there and is what was written. Raises DamagedFile."""
        store = cls.open(path)
        for unit in store.gone():
            if not unit.startswith("runs/"):  # a run that was removed is missing, and the report says so
                raise DamagedFile(
                    f"{path / unit} was written but is gone. Go on with --resume {path}: it is made again, if it is needed."
                )
        return store

    def gone(self) -> list[str]:
        """What was written and has been removed whole. Raises DamagedFile for a file that is not what was written."""
        tuning = self.path / "tuning"
        if (tuning / "experiment.yaml").is_file():
            Store.open(tuning).integrity.check()
        return self.integrity.check()

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
        try:
            text = dump_yaml(experiment.to_dict())
        except yaml.YAMLError as error:
            raise UserError(
                f"experiment.yaml could not be read again: {error}. Compare fewer arms at once."
            ) from None
        self.experiment = experiment
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
