"""Random models of each family whose layers the engine calls itself, adapters for them, and prompts."""

from __future__ import annotations

from typing import Any

import torch
from families import WORDS
from tiny import llama, word_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from algos import LoRA, Policy
from algos.engine.models.policy import with_adapter

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
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 1, 2, 3, 4], [5, 6]]
"""Of unlike lengths."""


def a_policy(kind: str) -> Policy:
    """A random model of transformers, its distributions far from uniform."""
    tokenizer = word_tokenizer(WORDS)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), initializer_range=0.3, **KNOWN[kind])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Policy(AutoModelForCausalLM.from_config(config), tokenizer, dtype="fp32")


def with_loud_adapter(make: Any = llama) -> Any:
    """A model with adapters that change what it says: fresh ones change nothing."""
    model = with_adapter(make(12), LoRA(rank=2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))
    return model
