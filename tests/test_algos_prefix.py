"""A prompt read once for many responses (all families: test_algos_families.py)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import rollouts_of, tiny_policy

from algos.engine import prefix
from algos.engine.head import linear_head
from algos.engine.prefix import score_group
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_policy


def group() -> Rollouts:
    """Padded on both sides, as a part of a larger batch is."""
    two = rollouts_of([[3, 2, 1, 1, 2], [1, 2]], [[[1, 2, 0], [2, 0]], [[1, 1, 2, 2, 1, 0], [0]]])
    return two.select(torch.tensor([1]))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("at_once", [1, 100])
def test_the_same_numbers(monkeypatch: pytest.MonkeyPatch, kind: str, at_once: int) -> None:
    policy = tiny_policy(kind, double=True)
    monkeypatch.setattr(prefix, "MAX_TOKENS", at_once * group().T)
    torch.testing.assert_close(score_group(policy, group(), 0.7), score_policy(policy, group(), 0.7)[0])


def test_every_token_is_read_once() -> None:
    policy, rollouts = tiny_policy(), group().trimmed()
    read: list[int] = []

    def count(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        read.append(inputs["input_ids"].numel())

    assert linear_head(policy.model) is not None  # tried out before anything is counted
    policy.model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    score_group(policy, rollouts, 1.0)
    L, G, T = rollouts.prompt_ids_PL.shape[1], rollouts.G, rollouts.T
    assert read == [L, G * (T - 1)]
