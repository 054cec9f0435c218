"""A base model: a causal LM trained from scratch on whole texts, by TRL's SFTTrainer."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.stages.fitting import Fit, controlled, encode_whole, run_trainer, trainer_arguments

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


def train_base(
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    out: Path,
    fit: Fit,
) -> None:
    """Trains a causal LM of this `config` from scratch on whole texts (prompt and completion), EOS at the end of each.

    Writes model (safetensors) and tokenizer to `out`. `fit.seed` alone decides initial weights and order.
    """
    with controlled(fit):
        from datasets import Dataset
        from transformers import AutoModelForCausalLM
        from trl import SFTConfig, SFTTrainer

        from algos.engine.fast.kernels import patch_kernels

        # A copy: the trainer writes into the configuration of the model it is given.
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
        patch_kernels(model)
        ids = [encode_whole(tokenizer, text) for text in texts]
        # Tokenised here, so that BOS and EOS are there exactly once: TRL takes such rows as they are.
        rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
        with tempfile.TemporaryDirectory() as scratch:
            arguments = trainer_arguments(SFTConfig, scratch, fit)
            run_trainer(
                SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
            )
        model.config.use_cache = config.use_cache  # The trainer turns it off, and it would be saved so.
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
