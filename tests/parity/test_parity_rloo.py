"""Log-probabilities, leave-one-out advantages and REINFORCE's loss against TRL's RLOO."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_table import Row, Table
from parity_trl import inject, loss_of, reward, rloo_trainer
from parity_worlds import (
    DTYPES,
    PROMPTS,
    RESPONSES,
    SCORES,
    batch,
    before_update,
    blank,
    model,
    policy_of,
    random,
    saved,
    scored,
    tokenizer,
)
from tiny import gpt2
from torch import Tensor
from trl import RLOOTrainer

from algos import REINFORCE, Policy
from algos.engine.algorithm import Outputs
from algos.engine.forward import forward
from algos.engine.scoring import score_policy
from algos.losses import kl_estimate

pytestmark = pytest.mark.parity

RLOO = "REINFORCE with leave-one-out (RLOO)"
BETA, TEMPERATURE = 0.4, 0.7
LENGTHS = [[6, 1], [3, 4], [2, 5]]
EQUAL = ["a b", "c d", "b a", "e c"]
"""Prompts of equal lengths: no padding on the left."""


def inputs(prompts: list[str] = PROMPTS) -> list[dict[str, str]]:
    return [{"prompt": prompt} for prompt in prompts for _ in range(2)]


def test_advantages_and_log_probabilities_of_rloo(table: Table, tmp_path: Path) -> None:
    """TRL's own scoring of given completions, KL in the reward, the reference on disk another model."""
    trained = model("llama", seed=1)
    trained.config._name_or_path = saved("llama", tmp_path / "reference").config._name_or_path
    trainer: Any = rloo_trainer(trained, tmp_path / "run", reward, beta=BETA, temperature=TEMPERATURE)
    inject(trainer, PROMPTS, RESPONSES)
    peer = trainer._generate_and_score_completions(inputs())
    policy = policy_of(model("llama", seed=1), model("llama"))
    rollouts = before_update(policy, scored(batch(), SCORES), TEMPERATURE)
    prepared, _ = REINFORCE(beta=BETA).prepare(rollouts, {})
    sums_PG = torch.where(rollouts.mask_PGT, rollouts.logps_PGT, 0.0).sum(-1)
    scoring = RLOOTrainer._generate_and_score_completions
    table.agrees(
        Row(RLOO, "log-probability of a response, T = 0.7", score_policy, scoring),
        sums_PG.flatten(),
        peer["old_logps"],
    )
    table.agrees(
        Row(RLOO, "score − β·KL, less the mean of the others: advantages", REINFORCE.prepare, scoring),
        prepared.advantages_PGT[..., 0].flatten(),
        peer["advantages"],
    )
    kl = kl_estimate(rollouts.logps_PGT, rollouts.ref_logps_PGT)[rollouts.mask_PGT].mean()
    table.agrees(
        Row(RLOO, "k1, the mean a token", kl_estimate, scoring), kl, trainer._metrics["train"]["kl"][-1]
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_of_the_sequence_loss_is_rloos(table: Table, tmp_path: Path, dtype: torch.dtype) -> None:
    """At the sampling policy, the gradient of RLOO's ratio is that of the log-probability."""
    trainer = rloo_trainer(saved("gpt2", tmp_path / "model"), tmp_path)
    rollouts = blank(LENGTHS, 6)
    logps = random(*rollouts.mask_PGT.shape, seed=0, dtype=dtype)
    advantages_PG = random(3, 2, seed=1, dtype=dtype)
    loss, leaf = loss_of(trainer, rollouts, logps, advantages_PG.flatten(), logps)
    prepared = replace(
        rollouts,
        advantages_PGT=advantages_PG[..., None].expand_as(logps),
        returns_PGT=torch.zeros_like(logps),
    )
    mine = logps.clone().requires_grad_()
    ours, _ = REINFORCE().loss(Outputs(mine, torch.zeros_like(mine)), prepared)
    gradients = torch.autograd.grad(ours, mine)[0], torch.autograd.grad(loss, leaf)[0].view_as(mine)
    table.agrees(Row(RLOO, "sequence loss: gradient", REINFORCE.loss, RLOOTrainer._compute_loss), *gradients)
    row = Row(
        RLOO, "sequence loss: value", REINFORCE.loss, RLOOTrainer._compute_loss,
        "−A·log π here, −A·ρ with ρ = 1 there: the same gradient, another value.",
    )  # fmt: skip
    table.differs(row, ours, loss, by_at_least=1e-2)


def test_where_padding_on_the_left_moves_trls_positions(table: Table, tmp_path: Path) -> None:
    """GPT-2's positions are absolute. TRL passes none, and transformers then counts from the padding on."""
    trainer: Any = rloo_trainer(saved("gpt2", tmp_path / "model"), tmp_path)
    policy = policy_of(model("gpt2"), model("gpt2"))
    peer = RLOOTrainer._get_per_token_logps_and_entropies
    for name, prompts, unequal in (
        ("equal", EQUAL, False),
        ("unequal", PROMPTS, True),
    ):
        rollouts = batch(prompts)
        ours = forward(policy.model, rollouts, 1.0, torch.float32).logps_PGT[rollouts.mask_PGT]
        with torch.no_grad():
            logps = trainer._get_per_token_logps_and_entropies(
                trainer.model, rollouts.input_ids_BS(), rollouts.attention_mask_BS().long(), rollouts.T
            )[0]
        theirs = logps[rollouts.mask_PGT.flatten(0, 1)]
        formula = f"log-probabilities of GPT-2, prompts of {name} lengths"
        if unequal:
            why = (
                "TRL passes no positions: those of a left-padded prompt begin in the padding. Ours come from the mask "
                "and agree with unpadded rows (below)."
            )
            table.differs(Row(RLOO, formula, forward, peer, why), ours, theirs, by_at_least=1e-2)
        else:
            table.agrees(Row(RLOO, formula, forward, peer), ours, theirs)


def _scored_by_trl(trainer: Any, prompts: list[str]) -> dict[str, Tensor]:
    inject(trainer, prompts, RESPONSES)
    found: dict[str, Tensor] = trainer._generate_and_score_completions(inputs(prompts))
    return found


@pytest.mark.parametrize("disabled", [True, False])
def test_dropout_moves_trls_log_probabilities(table: Table, tmp_path: Path, disabled: bool) -> None:
    """RLOO leaves dropout on unless it is told otherwise; ours is off in every forward."""
    made = gpt2(len(tokenizer()), dropout=0.2)
    made.save_pretrained(tmp_path / "model")
    policy = Policy(copy.deepcopy(made), tokenizer(), dtype="fp32")
    made.config._name_or_path = str(tmp_path / "model")
    trainer = rloo_trainer(made.train(), tmp_path, prompts=EQUAL, disable_dropout=disabled)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = _scored_by_trl(trainer, EQUAL)["old_logps"]
    rollouts = before_update(policy, batch(EQUAL), 1.0)
    ours = torch.where(rollouts.mask_PGT, rollouts.logps_PGT, 0.0).sum(-1).flatten()
    peer = RLOOTrainer._generate_and_score_completions
    formula = "log-probability of a response, dropout 0.2 in the model's configuration"
    if disabled:
        table.agrees(Row(RLOO, f"{formula}, TRL's `disable_dropout`", score_policy, peer), ours, theirs)
    else:
        why = "TRL's RLOO leaves dropout on by default; ours is off in every forward"
        table.differs(Row(RLOO, formula, score_policy, peer, why), ours, theirs, by_at_least=1e-2)


def test_trls_reference_is_the_one_on_disk(table: Table, tmp_path: Path) -> None:
    """Weights changed in memory before training: ours begin at KL 0, TRL's do not."""
    changed = model("llama", seed=1)
    changed.config._name_or_path = saved("llama", tmp_path / "model").config._name_or_path
    policy = Policy(copy.deepcopy(changed), tokenizer(), dtype="fp32")
    trainer: Any = rloo_trainer(changed, tmp_path, beta=BETA)
    _scored_by_trl(trainer, PROMPTS)
    rollouts = before_update(policy, batch(), 1.0)
    ours = kl_estimate(rollouts.logps_PGT, rollouts.ref_logps_PGT)[rollouts.mask_PGT].mean()
    row = Row(
        RLOO, "k1 before the first update, the weights changed in memory", Policy.reference,
        RLOOTrainer._generate_and_score_completions,
        "TRL loads the reference again from the model's path; ours is the policy as it stood in memory",
    )  # fmt: skip
    assert float(ours) == 0
    table.differs(row, ours, trainer._metrics["train"]["kl"][-1], by_at_least=1e-2)
