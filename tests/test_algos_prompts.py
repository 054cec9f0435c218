"""What tells one run's prompts from another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stopped_runs import Stopped, run
from tiny import tiny_policy

from algos import RunError

ANSWERED = [{"prompt": text, "answer": [1, {"unit": "m"}]} for text in ("a", "b a", "a b")]


@pytest.mark.parametrize(
    ("rows", "same"),
    [
        (ANSWERED, True),
        ([{"answer": row["answer"], "prompt": row["prompt"]} for row in ANSWERED], True),
        ([row | {"answer": [2, {"unit": "m"}]} for row in ANSWERED], False),
        ([{"prompt": row["prompt"]} for row in ANSWERED], False),
        # The reward sees white space that is nothing to the policy.
        ([row | {"prompt": f"{row['prompt']} "} for row in ANSWERED], False),
        # An image, say, of which nobody can tell that it is another.
        ([row | {"image": object()} for row in ANSWERED], True),
    ],
)
def test_other_columns_of_the_data_are_other_data(tmp_path: Path, rows: Any, same: bool) -> None:
    with pytest.raises(Stopped):
        run(
            "reinforce",
            tiny_policy(),
            stop_after=2,
            prompts=ANSWERED,
            checkpoint=tmp_path,
            checkpoint_every=1,
        )
    if same:
        assert len(run("reinforce", tiny_policy(), prompts=rows, checkpoint=tmp_path).rows) == 6
        return
    with pytest.raises(RunError, match="another run: its data is "):
        run("reinforce", tiny_policy(), prompts=rows, checkpoint=tmp_path)
