"""A comparison's files of rows as data frames: what the report reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.directory.runs import Run

if TYPE_CHECKING:
    import pandas as pd

Keyed = Sequence[tuple[Run, Mapping[str, Any]]]
"""Runs, each with its arm, algorithm and seed."""
COUNTS = ("updates", "completions", "tokens", "flops", "seconds")
_BASE = {"arm": "base", "algorithm": "base", "seed": 0, "point": 0}
_COLUMNS = ["arm", "algorithm", "seed", "status", "point", *COUNTS, "metric", "value"]
_STATUS = {
    "status": "missing",
    "error": "",
    "diverged": "",
    "fraction": math.nan,
    "updates": math.nan,
    "seconds": math.nan,
}


def results(keyed: Keyed, base: Mapping[str, float], matches: Mapping[str, Any]) -> pd.DataFrame:
    """One value a row: arm, algorithm, seed, status (done, failed, missing; the base's is done), point, counts, metric,
    value."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {**_BASE, "status": "done", **dict.fromkeys(COUNTS, 0), "metric": name, "value": value}
        for name, value in base.items()
    ]
    for run, known in keyed:
        key = {**known, "status": run.status["status"]}
        points = run.read("rows")
        for row in points:
            counts = {"point": row["point"], **{name: row[name] for name in COUNTS}}
            rows += [{**key, **counts, "metric": name, "value": v} for name, v in row["metrics"].items()]
        for other, value in matches.get(run.folder.name, {}).items() if points else ():
            last = {"point": points[-1]["point"], **{name: points[-1][name] for name in COUNTS}}
            rows.append({**key, **last, "metric": f"win_rate/{other}", "value": value})
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    return frame.astype({"value": float, "seed": int, "point": int, **dict.fromkeys(COUNTS, float)})


def events(keyed: Keyed) -> pd.DataFrame:
    """One iteration a row."""
    import pandas as pd

    # A run at a time: as objects, all rows of a long comparison would need gigabytes.
    runs = [(key, pd.DataFrame(run.read("events"))) for run, key in keyed]
    frames = [frame.assign(**key)[[*key, *frame]] for key, frame in runs if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def samples(keyed: Keyed, base: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One response a row, those of the base first."""
    import pandas as pd

    first = [{**_BASE, **row} for row in base]
    return pd.DataFrame(first + [{**key, **row} for run, key in keyed for row in run.read("samples")])


def runs(keyed: Keyed) -> pd.DataFrame:
    """One run a row, with its status."""
    import pandas as pd

    return pd.DataFrame(
        {**key, **_STATUS}
        | {name: value for name, value in status.items() if name in _STATUS}
        # Where a file says that it is would be for the file to choose.
        | {"policy": f"runs/{run.folder.name}/policy" if status.get("policy") else ""}
        for run, key in keyed
        for status in [run.status]
    )
