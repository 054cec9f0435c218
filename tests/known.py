"""Random models of each family whose layers the engine calls itself."""

from __future__ import annotations

from typing import Any

import torch
from families import WORDS
from tiny import word_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from algos import Policy

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
KNOWN: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "llama": SIZES,
    "mistral": SIZES | {"sliding_window": None},
    "qwen2": SIZES,
    "qwen3": SIZES,
}


def a_policy(kind: str) -> Policy:
    """A random model of transformers, its distributions far from uniform."""
    tokenizer = word_tokenizer(WORDS)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), initializer_range=0.3, **KNOWN[kind])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Policy(AutoModelForCausalLM.from_config(config), tokenizer, dtype="fp32")
