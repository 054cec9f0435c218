"""The settings of a comparison on one's own model and data, where the algorithms' own would not do."""

from __future__ import annotations

from typing import Any

from algos import REINFORCE


def preset(recorded_pairs: bool) -> dict[str, Any]:
    """Of pairs that are sampled from the model and labelled by the reward DPO's β is the objective's
    (docs/algorithms.md): it is then that of the other arms, so that all seek one policy. On recorded pairs it is a
    regulariser of DPO's own, and DPO keeps its default."""
    return {} if recorded_pairs else {"dpo": {"beta": REINFORCE().beta}}
