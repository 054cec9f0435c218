"""The clipped token loss and k3 against TRL's GRPO, on fixed log-probabilities and advantages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_table import Row, Table
from parity_trl import grpo_trainer, loss_of
from parity_worlds import DTYPES, blank, random, saved
from trl import GRPOTrainer

from algos import PPO
from algos.engine.algorithm import Outputs
from algos.losses import kl_estimate, ppo_loss

pytestmark = pytest.mark.parity

GRPO = "PPO's clipped token loss"
LENGTHS = [[6, 1], [3, 4], [2, 5]]
TO_TRL = {"token_mean": "bnpo", "sequence_mean": "grpo", "constant": "dr_grpo", "sequence_sum": "luspo"}


def _grpo(folder: Path, **changes: Any) -> GRPOTrainer:
    trainer = grpo_trainer(
        saved("gpt2", folder / "model"), folder, beta=0.0, max_completion_length=6, **changes
    )
    trainer.model.eval()  # in training, its loss is divided by the accumulated steps, which `train` sets
    return trainer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("aggregation", TO_TRL)
@pytest.mark.parametrize(("high", "dual"), [(None, None), (0.3, None), (None, 2.0)])
def test_the_clipped_loss_is_grpos(
    table: Table, tmp_path: Path, dtype: torch.dtype, aggregation: Any, high: float | None, dual: float | None
) -> None:
    """With an advantage for every token, ratios on both sides of both clips."""
    changes = {"epsilon": 0.2, "epsilon_high": high, "delta": dual}
    trainer = _grpo(tmp_path, loss_type=TO_TRL[aggregation], **changes)
    rollouts = blank(LENGTHS, 6)
    shape = rollouts.mask_PGT.shape
    logps, advantages = random(*shape, seed=0, dtype=dtype), random(*shape, seed=1, dtype=dtype)
    old = logps + random(*shape, seed=2, dtype=dtype, scale=0.6)
    loss, leaf = loss_of(trainer, rollouts, logps, advantages.flatten(0, 1), old)
    mine = logps.clone().requires_grad_()
    ours = ppo_loss(mine, old, advantages, rollouts.mask_PGT, 0.2, high, dual, aggregation)
    name = {(None, None): "", (0.3, None): ", ε_high", (None, 2.0): ", dual clip"}[high, dual]
    gradients = (torch.autograd.grad(x, leaf)[0] for x, leaf in ((ours, mine), (loss, leaf)))
    row = Row(
        GRPO, f"`{aggregation}`{name} (TRL's `{TO_TRL[aggregation]}`)", ppo_loss, GRPOTrainer._compute_loss
    )
    table.agrees(row, ours, loss)
    table.agrees(row, *(gradient.view(6, 6) for gradient in gradients))


@pytest.mark.parametrize("dtype", DTYPES)
def test_ppos_policy_loss_and_diagnostics_are_grpos(table: Table, tmp_path: Path, dtype: torch.dtype) -> None:
    """The algorithm's own `loss`, value function apart, and the share of clipped tokens that it logs."""
    trainer: Any = _grpo(tmp_path, loss_type="bnpo")
    rollouts = blank(LENGTHS, 6)
    shape = rollouts.mask_PGT.shape
    logps, advantages = random(*shape, seed=0, dtype=dtype), random(*shape, seed=1, dtype=dtype)
    old, zeros = logps + random(*shape, seed=2, dtype=dtype, scale=0.6), torch.zeros(shape, dtype=dtype)
    loss, _ = loss_of(trainer, rollouts, logps, advantages.flatten(0, 1), old)
    prepared = replace(
        rollouts, logps_PGT=old, advantages_PGT=advantages, values_PGT=zeros, returns_PGT=zeros
    )
    ours, _ = PPO().loss(Outputs(logps, zeros, zeros), prepared)
    table.agrees(Row(GRPO, "PPO's whole loss, V = R = 0", PPO.loss, GRPOTrainer._compute_loss), ours, loss)


@pytest.mark.parametrize("dtype", DTYPES)
def test_k3_is_grpos(table: Table, tmp_path: Path, dtype: torch.dtype) -> None:
    """With no advantage, GRPO's loss is β times the mean of k3."""
    trainer: Any = _grpo(tmp_path, loss_type="bnpo")
    trainer.beta = 1.0
    rollouts = blank(LENGTHS, 6)
    shape = rollouts.mask_PGT.shape
    logps, ref = random(*shape, seed=0, dtype=dtype), random(*shape, seed=1, dtype=dtype)
    loss, _ = loss_of(
        trainer, rollouts, logps, torch.zeros(6, dtype=dtype), logps, ref_per_token_logps=ref.flatten(0, 1)
    )
    ours = kl_estimate(logps, ref, "k3")[rollouts.mask_PGT].mean()
    table.agrees(Row(GRPO, "k3, the mean a token", kl_estimate, GRPOTrainer._compute_loss), ours, loss)
