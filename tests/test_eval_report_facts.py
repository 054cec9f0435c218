"""facts.json: what the report is told of every data seed, and that its shape is known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eval.comparison import _write_facts
from eval.directory.kinds import Closed
from eval.directory.schemas import Facts
from eval.experiment import Experiment


def told(seed: int) -> dict[str, Any]:
    """What the materials of a data seed tell of themselves."""
    return {
        "task": "reviews",
        "reward_model": {"accuracy": 0.7 + seed / 100, "pairs": 1800 + seed, "heldout_pairs": 200},
        "stages": [{"name": "reward model", "seconds": 1.0 + seed, "flops": 2.0, "cached": False}],
    }


def written(tmp_path: Path, experiment: Experiment, seeds: range) -> dict[str, Any]:
    store: Any = SimpleNamespace(experiment=experiment, path=tmp_path)
    materials: Any = SimpleNamespace(facts=told(0))
    _write_facts(store, materials, {seed: told(seed) for seed in seeds})
    found: dict[str, Any] = json.loads((tmp_path / "facts.json").read_text(encoding="utf-8"))
    found.pop("sha256")
    Facts.model_validate(found)
    return found


def test_facts_have_what_every_data_seed_has_of_its_own(tmp_path: Path) -> None:
    """The seeds of tuning have materials too, and are none of the comparison's."""
    facts = written(tmp_path, Experiment(seeds=3, replicate_data=True), range(5))
    assert list(facts["data_seeds"]) == ["0", "1", "2"]
    for seed, about in facts["data_seeds"].items():
        own = told(int(seed))
        assert about == {"reward_model": own["reward_model"], "stages": own["stages"]}
    assert facts["reward_model"] == told(0)["reward_model"]


def test_facts_of_one_data_seed_are_as_they_were(tmp_path: Path) -> None:
    assert "data_seeds" not in written(tmp_path, Experiment(seeds=3), range(1))
    assert "data_seeds" not in written(tmp_path, Experiment(seeds=1, replicate_data=True), range(1))


def test_a_data_seed_tells_no_more_than_is_declared() -> None:
    assert issubclass(Facts.model_fields["data_seeds"].annotation.__args__[1], Closed)
    with pytest.raises(ValueError, match="accuracy"):
        Facts.model_validate(
            {"data_seeds": {"0": {"reward_model": {"accuracy": 7, "pairs": 1, "heldout_pairs": 1}}}}
        )
    with pytest.raises(ValueError, match="labels"):
        Facts.model_validate({"data_seeds": {"0": {"labels": "mine"}}})
