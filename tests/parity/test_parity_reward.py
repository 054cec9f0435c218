"""The Bradley–Terry loss and our scoring of texts against TRL's RewardTrainer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from parity_table import Row, Table
from parity_trl import PAIRS, reward_trainer
from parity_worlds import DTYPES, PAD, random, tokenizer
from transformers import AutoModelForSequenceClassification, LlamaConfig
from trl import RewardTrainer

from algos.engine.rewards import RewardModel
from algos.losses import dpo_loss

pytestmark = pytest.mark.parity

PART = "Bradley–Terry"


def classifier(folder: Path) -> Any:
    config = LlamaConfig(
        vocab_size=len(tokenizer()), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=32, num_labels=1, pad_token_id=PAD, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RewardTrainer, Path]:
    folder = tmp_path_factory.mktemp("reward")
    return reward_trainer(classifier(folder / "model"), folder), folder / "model"


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loss_is_dpos_sigmoid_of_two_rewards(table: Table, trained: Any, dtype: torch.dtype) -> None:
    chosen, rejected = (random(6, seed=seed, dtype=dtype).requires_grad_() for seed in (0, 1))
    logits = torch.cat([chosen, rejected])[:, None]
    inputs = {"attention_mask": torch.ones(12, 1, dtype=torch.long)}
    theirs = trained[0].compute_loss(lambda **_: SimpleNamespace(logits=logits), inputs)
    zeros = torch.zeros_like(chosen)
    mine = dpo_loss(chosen, rejected, zeros, zeros, beta=1.0).mean()
    row = Row(PART, "−log σ(r_w − r_l)", dpo_loss, RewardTrainer.compute_loss)
    table.agrees(row, mine, theirs)
    table.agrees(row, *(torch.autograd.grad(x, chosen, retain_graph=True)[0] for x in (mine, theirs)))


@pytest.mark.parametrize("pooling", ["model", "mask"])
def test_our_scores_give_the_trainers_loss(table: Table, trained: Any, pooling: Any) -> None:
    """From texts: rendering, BOS and EOS, padding and pooling."""
    trainer, folder = trained
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, batch)
    model = RewardModel(folder, pooling=pooling)
    prompts = [pair["prompt"] for pair in PAIRS]
    chosen, rejected = (
        torch.tensor(model(prompts=prompts, completions=[pair[side] for pair in PAIRS]))
        for side in ("chosen", "rejected")
    )
    mine = dpo_loss(chosen, rejected, torch.zeros(len(PAIRS)), torch.zeros(len(PAIRS)), beta=1.0).mean()
    row = Row(
        PART, f"loss of a tiny Llama on texts, pooling `{pooling}`", RewardModel, RewardTrainer.compute_loss
    )
    table.agrees(row, mine, theirs)
