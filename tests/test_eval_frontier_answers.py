"""Answers that are kept until the pool is whole: what was written, of this plan, or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import rollouts_of

from eval.frontier.answers import Answers, Drawn

PLAN = {"samplers": ["base", "ppo"], "seeds": [0, 3], "counts": [3, 2], "prompts": 2, "data_seed": 0}


def test_what_was_sampled_for_another_plan_is_sampled_anew(tmp_path: Path) -> None:
    drawn, answers = Drawn(tmp_path), Answers.of([rollouts_of([[1]], [[[1, 0], [2, 2]]])], np.ones((2, 2)))
    drawn.begin(PLAN)
    drawn.write(1, 0, answers)
    drawn.begin(dict(PLAN))
    found = drawn.read(1, 0, 2, longest=2, rows=3)
    assert found is not None
    assert found.ids_MT.tolist() == [[1, 0], [2, 2]]
    drawn.begin(PLAN | {"counts": [3, 4]})
    assert drawn.read(1, 0, 2, longest=2, rows=3) is None


@pytest.mark.parametrize(
    ("count", "longest", "rows"), [(3, 2, 3), (2, 1, 3), (2, 2, 2)], ids=["count", "length", "vocabulary"]
)
def test_answers_that_cannot_be_meant_are_sampled_anew(
    tmp_path: Path, count: int, longest: int, rows: int
) -> None:
    drawn = Drawn(tmp_path)
    drawn.begin(PLAN)
    drawn.write(0, 0, Answers.of([rollouts_of([[1]], [[[1, 0], [2, 2]]])], np.ones((2, 2))))
    assert drawn.read(0, 0, 2, longest=2, rows=3) is not None
    assert drawn.read(0, 0, count, longest=longest, rows=rows) is None
