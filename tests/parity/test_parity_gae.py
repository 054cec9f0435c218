"""Generalised advantage estimation against Stable-Baselines3, over several episodes of unequal length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity_table import Row, Table
from parity_worlds import DTYPES, random
from torch import Tensor

from algos.advantages import gae

buffers = pytest.importorskip("stable_baselines3.common.buffers")
spaces = pytest.importorskip("gymnasium").spaces

pytestmark = pytest.mark.parity

LENGTHS = [4, 1, 6, 3]


def stable_baselines(
    rewards: list[Tensor], values: list[Tensor], gamma: float, lam: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The episodes one after another in one rollout buffer, each a response that ended."""
    steps = sum(len(r) for r in rewards)
    buffer = buffers.RolloutBuffer(
        steps, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), device="cpu", gae_lambda=lam, gamma=gamma
    )
    if dtype == torch.float64:  # the buffer stores fp32; its arithmetic is that of what it holds
        for name in ("rewards", "values", "advantages", "returns", "episode_starts"):
            setattr(buffer, name, getattr(buffer, name).astype(np.float64))
    for reward, value in zip(rewards, values, strict=True):
        for t in range(len(reward)):
            buffer.add(
                np.zeros((1, 1)),
                np.zeros((1, 1)),
                reward[t].numpy(),
                np.array([t == 0]),
                value[t],
                torch.zeros(1),
            )
    # What follows the last step is of no account: the episode is done.
    buffer.compute_returns_and_advantage(torch.full((1,), 99.0, dtype=dtype), dones=np.array([True]))
    return torch.from_numpy(buffer.advantages[:, 0]), torch.from_numpy(buffer.returns[:, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.99, 1.0), (1.0, 0.0)])
def test_gae_is_that_of_stable_baselines(table: Table, dtype: torch.dtype, gamma: float, lam: float) -> None:
    width = max(LENGTHS) + 1
    mask = torch.arange(width) < torch.tensor(LENGTHS)[:, None]
    rewards, values = (random(len(LENGTHS), width, seed=seed, dtype=dtype) for seed in (0, 1))
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    rows = [list(x.split(1)) for x in (rewards, values)]
    episodes = [[row[0, :n] for row, n in zip(x, LENGTHS, strict=True)] for x in rows]
    peer = stable_baselines(*episodes, gamma, lam, dtype)
    row = Row(
        "Generalised advantage estimation",
        f"advantages and returns of several episodes, γ = {gamma:g}, λ = {lam:g}",
        gae,
        buffers.RolloutBuffer.compute_returns_and_advantage,
    )
    for mine, theirs in zip((advantages, returns), peer, strict=True):
        table.agrees(row, mine[mask], theirs)
