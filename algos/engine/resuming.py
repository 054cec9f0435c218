"""Which checkpoint a run may go on from: one of the same run, with all that it needs and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from algos.engine.errors import RunError


def refuse_another_run(saved: Path, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raises RunError, with the difference, where what the rest of a run depends on is not what it was.

    The threads of the CPU count where the model is on it: they split its sums, and no GPU's.
    """
    left, right = _flat(theirs), _flat(mine)
    if right.get("model.device") != "cpu":
        left, right = _without(left, "threads"), _without(right, "threads")
    differing = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    if differing:
        told = "; ".join(
            f"its {name} is {left.get(name, 'not there')}, this run's {right.get(name, 'not there')}"
            for name in differing[:3]
        )
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        remedy = "Use another folder, or remove it to start again"
        if "threads" in differing:
            remedy = f"Call torch.set_num_threads({left.get('threads')}) first, as many as it had. Or use another folder, or remove it to start again"
        raise RunError(f"the checkpoint {saved} belongs to another run: {told}{more}. {remedy}.")


def refuse_other_keys(saved: Path, theirs: Iterable[str], mine: Iterable[str]) -> None:
    """Raises RunError where something is missing in a checkpoint, or unknown to this run."""
    wrong = sorted(set(theirs) ^ set(mine))
    if wrong:
        raise RunError(
            f"the checkpoint {saved} and this run differ in {', '.join(wrong[:3])}, which only one of them has. Remove it to start again."
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}
