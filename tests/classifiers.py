"""Tiny reward models saved as a user has them, and what they score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny import word_tokenizer
from transformers import GPT2Config, GPT2ForSequenceClassification

PROMPTS, COMPLETIONS = ["a b", "c", "a a a"], [" c", " a b c a", " b"]


def classifier(
    path: Path, *, pooling: str | None = None, offset: float = 0.0, labels: int = 1
) -> tuple[Any, Any]:
    """A tiny GPT-2 classifier whose pad is EOS, saved with its tokenizer."""
    tokenizer = word_tokenizer("a b c", pad="<eos>")
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=16, n_embd=16, n_layer=2, n_head=2, num_labels=labels,
        pad_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id, initializer_range=0.4,
    )  # fmt: skip
    if pooling is not None:
        config.reward_pooling = pooling
    config.reward_offset = offset
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2ForSequenceClassification(config)
    model.eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return model, tokenizer
