"""What the stages share: how TRL's trainers are called, and how a text is encoded for them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

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


def encode_whole(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a whole text: BOS once where the tokenizer puts one, EOS once at the end."""
    from algos.engine.text.tokens import encode

    ids = encode(tokenizer, text)
    return ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]


def trainer_arguments(kind: type[Configuration], scratch: str, fit: Fit) -> Configuration:
    """The configuration of one of TRL's trainers, whose defaults are bf16, checkpointing and saving on."""
    on_cpu = fit.device == "cpu"
    arguments = kind(
        output_dir=scratch,
        num_train_epochs=fit.epochs,
        learning_rate=fit.learning_rate,
        per_device_train_batch_size=fit.batch_size,
        lr_scheduler_type="linear",
        warmup_steps=0.05,
        max_length=None,
        seed=fit.seed,
        use_cpu=on_cpu,
        bf16=not on_cpu,
        gradient_checkpointing=False,
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
