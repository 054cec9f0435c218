"""A whole update of DPO and of REINFORCE with leave-one-out against TRL's trainers: loss, gradients, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity_table import Row, Table
from parity_trl import PAIRS, dpo_trainer, inject, reward, rloo_trainer, their_update
from parity_worlds import (
    PROMPTS,
    RESPONSES,
    SCORES,
    Update,
    batch,
    flat,
    model,
    our_update,
    policy_of,
    saved,
    scored,
    tokenizer,
    weights,
)
from trl import DPOTrainer, RLOOTrainer

from algos import DPO, REINFORCE, Policy, Sampling, train
from algos.engine.batches.pairs import encode_pairs
from algos.engine.batches.recorded import PairSource, reference_logps
from algos.engine.budget import Meter

pytestmark = pytest.mark.parity

DPO_PART, RLOO_PART = "One update: DPO", "One update: REINFORCE with leave-one-out"
RATE = 1e-2
OURS = {"learning_rate": RATE, "schedule": "constant", "adam_eps": 1e-4}
THEIRS = {"learning_rate": RATE, "adam_epsilon": 1e-4, "max_steps": 1}
"""AdamW and gradients clipped to norm 1, which are the defaults of both. Its ε is 1e-4 in both: AdamW's first step is
g/(|g| + ε), which with the default 1e-8 would turn the rounding of vanishing gradients into steps of full size."""


def compare(table: Table, part: str, name: str, ours: Any, theirs: Any, mine: Update, peer: Update) -> None:
    """Each step's clipped gradients, and the weights after the last."""
    names = sorted(mine.before)
    assert mine.before.keys() == peer.before.keys()
    assert torch.equal(flat(mine.before, names), flat(peer.before, names))
    assert mine.moved > RATE / 2
    assert len(mine.gradients) == len(peer.gradients) > 0
    for one, other in zip(mine.gradients, peer.gradients, strict=True):
        table.agrees(
            Row(part, f"{name}: clipped gradients", ours, theirs), flat(one, names), flat(other, names)
        )
    table.agrees(
        Row(part, f"{name}: weights after", ours, theirs), flat(mine.after, names), flat(peer.after, names)
    )


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo_average"])
def test_a_dpo_step_away_from_the_reference(table: Table, tmp_path: Path, loss_type: Any) -> None:
    """The reference is another model: for TRL the one it is given, for us the policy's."""
    policy = policy_of(model("llama", seed=1), model("llama"))
    encoded, _ = encode_pairs(policy, PAIRS, 16)
    source = PairSource(policy, encoded, len(PAIRS), 1, 0, reference_logps(policy, encoded, 1.0))
    rollouts = source.next(0, Meter())
    mine = our_update(DPO(beta=0.3, loss_type=loss_type, **OURS), policy, rollouts)
    trl_name = {"sigmoid": "sigmoid", "ipo_average": "ipo"}[loss_type]
    trainer = dpo_trainer(
        model("llama", seed=1), tmp_path, model("llama"), beta=0.3, loss_type=trl_name, **THEIRS
    )
    peer = their_update(trainer)
    name = f"`{loss_type}`, tiny Llama"
    row = Row(DPO_PART, f"{name}: loss", DPO.loss, DPOTrainer.compute_loss)
    table.agrees(row, mine.losses[0], peer.losses[0])
    compare(table, DPO_PART, name, train, DPOTrainer, mine, peer)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_three_dpo_steps_from_texts(table: Table, tmp_path: Path, kind: str) -> None:
    """`train()` itself on the same rows: tokenisation, EOS, the reference as loaded, AdamW's memory."""
    trained = model(kind)
    policy = Policy(trained, tokenizer(), dtype="fp32")
    before = weights(trained)
    history = train(
        DPO(beta=0.3, epochs=3, batch_size=len(PAIRS), **OURS), policy, pairs=PAIRS, sampling=Sampling(max_new_tokens=16)
    )  # fmt: skip
    mine = Update(before, weights(trained))
    mine.losses = [torch.tensor(row["loss"], dtype=torch.float32) for row in history.rows]
    peer = their_update(
        dpo_trainer(saved(kind, tmp_path / "model"), tmp_path, beta=0.3, **(THEIRS | {"max_steps": 3}))
    )
    assert len(mine.losses) == len(peer.losses) == 3
    name = f"three steps from texts, tiny {'Llama' if kind == 'llama' else 'GPT-2'}"
    row = Row(DPO_PART, f"{name}: losses", DPO.loss, DPOTrainer.compute_loss)
    table.agrees(row, torch.stack(mine.losses), torch.stack(peer.losses))
    names = sorted(before)
    assert mine.moved > RATE
    row = Row(DPO_PART, f"{name}: weights after", train, DPOTrainer)
    table.agrees(row, flat(mine.after, names), flat(peer.after, names))


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_an_rloo_step_away_from_the_reference(table: Table, tmp_path: Path, micro_batch: int | None) -> None:
    """The same completions injected; KL in the reward against another model; temperature 0.7."""
    policy = policy_of(model("llama", seed=1), model("llama"))
    mine = our_update(
        REINFORCE(beta=0.4, **OURS), policy, scored(batch(), SCORES), temperature=0.7, micro_batch=micro_batch
    )
    trained = model("llama", seed=1)
    trained.config._name_or_path = saved("llama", tmp_path / "reference").config._name_or_path
    trainer = rloo_trainer(trained, tmp_path / "run", reward, beta=0.4, temperature=0.7, **THEIRS)
    inject(trainer, PROMPTS, RESPONSES)
    name = "tiny Llama" if micro_batch is None else "tiny Llama, ours one prompt at a time"
    compare(table, RLOO_PART, name, train, RLOOTrainer, mine, their_update(trainer))
