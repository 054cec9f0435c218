"""All that a comparison comes to, measured columns aside: what must be the same however often it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report_world import World

from algos.engine.storage import read_json
from eval.report.page import write_report
from eval.store import Store

MEASURED = ("seconds", "memory", "cached")  # whether a stage came from the cache is chance, too


def outcome(folder: Path) -> dict[str, Any]:
    """All that a comparison comes to, measured columns aside: equal outcomes mean equal reports."""
    found: dict[str, Any] = {}
    for run in Store.open(folder).all_runs:
        name, status = run.folder.name, run.status
        found[f"{name} status"] = [status.get(key) for key in ("status", "error", "fraction", "updates")]
        for rows in ("rows", "events", "samples"):
            found[f"{name} {rows}"] = [unmeasured(row) for row in run.read(rows)]
        for file in sorted(run.folder.glob("policy/*.safetensors")):
            found[f"{name} {file.name}"] = file.read_bytes()
        found[f"{name} files"] = sorted(path.name for path in run.folder.iterdir())
    found["matches"] = read_json(folder / "matches.json")
    found["base"] = unmeasured(Store.open(folder).base_metrics)
    return found


def unmeasured(value: Any) -> Any:
    """The same without what is measured, at whatever depth."""
    if isinstance(value, list):
        return [unmeasured(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {k: unmeasured(v) for k, v in value.items() if not any(word in k for word in MEASURED)}


def report(folder: Path, into: Path) -> dict[str, bytes]:
    """Every file of the report on a comparison, measured columns masked."""
    store = Store.open(folder)
    results = store.results[~store.results["metric"].str.contains("|".join(MEASURED))]
    facts = {key: value for key, value in unmeasured(store.facts).items() if key not in ("commands", "arms")}
    write_report(
        World(
            path=Path("x"),
            settings=store.settings,
            environment={},
            results=results.assign(seconds=0.0),
            events=store.events.assign(seconds=0.0),
            samples=store.samples,
            runs=store.runs.assign(seconds=0.0),
            facts=facts
            | {"arms": {name: {"algorithm": arm.name} for name, arm in store.experiment.arms.items()}},
        ),
        into,
    )
    return {
        path.relative_to(into).as_posix(): path.read_bytes() for path in into.rglob("*") if path.is_file()
    }


def same(out: Path, never_stopped: Path) -> None:
    """Asserts that a comparison came to what one came to that was never stopped, and left nothing half-written."""
    found, expected = outcome(out), outcome(never_stopped)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert [path.name for path in out.rglob(".*") if ".making-" in path.name] == []
