"""A comparison's directory: what was asked, every run's rows and samples, and what is still missing.

experiment.yaml  environment.json  facts.json
materials/<data seed>/   prompts, pairs, reward and judge: what all arms share
base/            metrics.json, samples.jsonl: the model before any training
runs/<arm>-s<seed>/   events.jsonl, rows.jsonl, samples.jsonl, status.json, policy/
matches.json     win rates of every two arms
results.parquet  results.csv  figures/  report.md  report.html
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from algos import UserError
from algos.engine.storage import atomic_file, read_json, write_json
from eval.experiment import Experiment, load_yaml

if TYPE_CHECKING:
    import pandas as pd

    from eval.tasks.materials import Materials

COUNTS = ("updates", "completions", "tokens", "flops", "seconds")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Run:
    """One arm with one seed, and its folder."""

    arm: str
    seed: int
    folder: Path

    @property
    def status(self) -> dict[str, Any]:
        """`status` is done, failed or missing; with `error`, `fraction`, `updates`, `seconds`."""
        file = self.folder / "status.json"
        return read_json(file) if file.is_file() else {"status": "missing"}

    def begin(self) -> None:
        """An empty folder: an unfinished run starts again from its beginning."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """One line to events.jsonl, rows.jsonl or samples.jsonl; not-a-number becomes null."""
        with (self.folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(row), ensure_ascii=False) + "\n")

    def finish(self, **status: Any) -> None:
        write_json(self.folder / "status.json", _finite(status))

    def read(self, name: str) -> list[dict[str, Any]]:
        return read_jsonl(self.folder / f"{name}.jsonl")


class Store:
    """Opens or creates a comparison's directory. Satisfies `eval.report.inputs.ReportInput`."""

    def __init__(self, path: Path, asked: Experiment) -> None:
        self.path = path
        self.asked = asked

    @classmethod
    def create(cls, path: Path, experiment: Experiment) -> Store:
        """Raises UserError where the folder holds anything: nothing is overwritten."""
        if (path / "experiment.yaml").exists():
            raise UserError(
                f"{path} holds another comparison. Go on with it by --resume {path}, or name another folder with --out."
            )
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} exists and is not empty. Name another folder with --out.")
        path.mkdir(parents=True, exist_ok=True)
        store = cls(path, experiment)
        store.write_experiment()
        return store

    @classmethod
    def open(cls, path: Path) -> Store:
        """Raises UserError where there is no comparison."""
        if not (path / "experiment.yaml").is_file():
            raise UserError(
                f"{path} holds no comparison: there is no experiment.yaml in it. Name a folder that a comparison was written to."
            )
        return cls(path, Experiment.from_dict(load_yaml(path / "experiment.yaml")))

    def discard(self) -> None:
        """Removes a comparison that was created but in which nothing has run."""
        if not (self.path / "runs").exists():
            shutil.rmtree(self.path)

    def write_experiment(self) -> None:
        with atomic_file(self.path / "experiment.yaml") as temporary:
            temporary.write_text(
                yaml.safe_dump(self.asked.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8"
            )

    def materials(self, data_seed: int) -> Materials:
        """What the arms share, as it was when the comparison began."""
        from eval.tasks.materials import Materials

        found = Materials.load(self.path / "materials" / str(data_seed))
        if found is None:
            raise UserError(
                f"{self.path} has no materials for data seed {data_seed}. Go on with --resume {self.path}, which makes them."
            )
        return found

    def run(self, arm: str, seed: int) -> Run:
        if not _NAME.fullmatch(arm):
            raise UserError(
                f"an arm's name is letters, digits, '_', '.' and '-'; got {arm!r}. Rename the variant."
            )
        return Run(arm, seed, self.path / "runs" / f"{arm}-s{seed}")

    @property
    def all_runs(self) -> list[Run]:
        """Every run asked for, seed by seed, so that a stopped comparison is balanced."""
        return [self.run(arm, seed) for seed in range(self.asked.seeds) for arm in self.asked.algos]

    # What the report reads.

    @property
    def experiment(self) -> dict[str, Any]:
        return self.asked.to_dict()

    @property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json")

    @property
    def facts(self) -> dict[str, Any]:
        return self._json("facts.json")

    @property
    def base_metrics(self) -> dict[str, float]:
        return self._json("base/metrics.json")

    @property
    def base_samples(self) -> list[dict[str, Any]]:
        return read_jsonl(self.path / "base" / "samples.jsonl")

    def write_base(self, metrics: Mapping[str, float], samples: Iterable[Mapping[str, Any]]) -> None:
        folder = self.path / "base"
        folder.mkdir(exist_ok=True)
        with atomic_file(folder / "samples.jsonl") as temporary:
            temporary.write_text(
                "".join(json.dumps(_finite(row), ensure_ascii=False) + "\n" for row in samples),
                encoding="utf-8",
            )
        write_json(folder / "metrics.json", _finite(metrics))

    @cached_property
    def _algorithms(self) -> dict[str, str]:
        return {name: arm.name for name, arm in self.asked.arms.items()}

    @cached_property
    def results(self) -> pd.DataFrame:
        """Tidy: one value a row."""
        import pandas as pd

        rows = [
            {
                "arm": "base",
                "algorithm": "base",
                "seed": 0,
                "point": 0,
                **dict.fromkeys(COUNTS, 0),
                "metric": name,
                "value": value,
            }
            for name, value in self.base_metrics.items()
        ]
        matches = self._json("matches.json")
        for run in self.all_runs:
            key = {"arm": run.arm, "algorithm": self._algorithms[run.arm], "seed": run.seed}
            points = run.read("rows")
            for row in points:
                counts = {"point": row["point"], **{name: row[name] for name in COUNTS}}
                rows += [
                    {**key, **counts, "metric": name, "value": value}
                    for name, value in row["metrics"].items()
                ]
            for other, value in matches.get(f"{run.arm}-s{run.seed}", {}).items():
                last = {"point": points[-1]["point"], **{name: points[-1][name] for name in COUNTS}}
                rows.append({**key, **last, "metric": f"win_rate/{other}", "value": value})
        frame = pd.DataFrame(rows, columns=["arm", "algorithm", "seed", "point", *COUNTS, "metric", "value"])
        return frame.astype({"value": float, "seed": int, "point": int, **dict.fromkeys(COUNTS, float)})

    @cached_property
    def events(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(
            {"arm": run.arm, "algorithm": self._algorithms[run.arm], "seed": run.seed, **row}
            for run in self.all_runs
            for row in run.read("events")
        )

    @cached_property
    def samples(self) -> pd.DataFrame:
        import pandas as pd

        rows = [
            {"arm": "base", "algorithm": "base", "seed": 0, "point": 0, **row} for row in self.base_samples
        ]
        for run in self.all_runs:
            key = {"arm": run.arm, "algorithm": self._algorithms[run.arm], "seed": run.seed}
            rows += [{**key, **row} for row in run.read("samples")]
        return pd.DataFrame(rows)

    @property
    def runs(self) -> pd.DataFrame:
        import pandas as pd

        blank = {
            "status": "missing",
            "error": "",
            "fraction": math.nan,
            "updates": math.nan,
            "seconds": math.nan,
            "policy": "",
        }
        return pd.DataFrame(
            {"arm": run.arm, "algorithm": self._algorithms[run.arm], "seed": run.seed, **blank, **run.status}
            for run in self.all_runs
        )

    def _json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        return read_json(file) if file.is_file() else {}


def next_folder(reports: Path, task: str, date: str) -> Path:
    """`reports/<task>-<date>-<n>`, the first n that is free."""
    n = 1
    while (reports / f"{task}-{date}-{n}").exists():
        n += 1
    return reports / f"{task}-{date}-{n}"


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, none where it is missing; a last line that was cut off is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would cut at U+2028 in model output
    return [json.loads(line) for line in lines[:-1]]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
