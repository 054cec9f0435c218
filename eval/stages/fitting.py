"""What the stages share: how TRL's trainers are called, and how a text is encoded for them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from algos.engine.settings import Precision
from eval.process.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer
    from trl import RewardConfig, SFTConfig

    Configuration = TypeVar("Configuration", SFTConfig, RewardConfig)


@dataclass(frozen=True)
class Fit:
    """How a stage is trained: AdamW, linear warm-up over the first 5% of the updates, then linear decay to 0."""

    epochs: int
    learning_rate: float
    batch_size: int = 32
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    dtype: Precision = "auto"
    """As in `Policy.load`."""
    gradient_checkpointing: bool = False
    micro_batch: int = 0
    """Rows that go through the model at once, at most; 0: the whole batch."""


def rows_at_once(batch_size: int, micro_batch: int) -> int:
    """How many rows of a batch do: its parts are equally large, so that the mean of their losses is its own, but in an
    epoch's last batch, which may be smaller."""
    most = min(micro_batch or batch_size, batch_size)
    return next(rows for rows in range(most, 0, -1) if batch_size % rows == 0)


def encode_whole(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a whole text: BOS once where the tokenizer puts one, EOS once at the end."""
    from algos.engine.text.tokens import encode

    ids = encode(tokenizer, text)
    return ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]


def trainer_arguments(kind: type[Configuration], scratch: str, fit: Fit) -> Configuration:
    """The configuration of one of TRL's trainers, whose defaults are bf16, checkpointing and saving on."""
    import torch

    from algos.engine.models.loading import compute_dtype

    device = torch.device(fit.device)
    on_cpu, at_once = device.type == "cpu", rows_at_once(fit.batch_size, fit.micro_batch)
    arguments = kind(
        output_dir=scratch,
        num_train_epochs=fit.epochs,
        learning_rate=fit.learning_rate,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=fit.batch_size // at_once,
        lr_scheduler_type="linear",
        warmup_steps=0.05,
        max_length=None,
        seed=fit.seed,
        use_cpu=on_cpu,
        bf16=compute_dtype(fit.dtype, device) == torch.bfloat16,
        gradient_checkpointing=fit.gradient_checkpointing,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
    )
    arguments._n_gpu = min(
        1, arguments.n_gpu
    )  # TRL refuses nn.DataParallel, which several visible GPUs turn on.
    return arguments


def run_trainer(trainer: Trainer) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()


@contextmanager
def controlled(fit: Fit) -> Iterator[None]:
    """Seed and threads as the fit says, libraries silent; the caller's generators and threads are put back."""
    quiet()
    import torch
    import transformers
    from huggingface_hub import constants

    # The environment variable is read once, when the package is first imported.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    threads, generators = torch.get_num_threads(), (random.getstate(), np.random.get_state())
    torch.set_num_threads(fit.threads)
    try:
        with torch.random.fork_rng():
            transformers.set_seed(fit.seed)
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(generators[0])
        np.random.set_state(generators[1])
