"""A short run in a process of its own that prints the peak memory it took, in bytes: for tests/test_eval_memory_room.py."""

from __future__ import annotations

import json
import sys
from typing import Any

import psutil
import torch
from tiny import word_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig

from algos import ALGORITHMS, LoRA, Policy, Sampling, train
from algos.engine.models.policy import with_adapter
from eval.process.measure import PeakMemory

WORDS = " ".join(f"w{i}" for i in range(50))


def config(hidden: int, layers: int, vocabulary: int) -> PretrainedConfig:
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024, eos_token_id=None,
        bos_token_id=None, pad_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip


def run(settings: dict[str, Any]) -> int:
    torch.set_num_threads(1)
    tokenizer = word_tokenizer(WORDS, eos=None)
    sampling = Sampling(**settings["sampling"])
    algorithm = ALGORITHMS[settings["algorithm"]](**settings["options"])
    words = WORDS.split()[: settings["prompt_tokens"]]
    prompts = [" ".join([*words[i:], *words[:i]]) for i in range(sampling.prompts_per_iteration)]
    data: dict[str, Any] = {"prompts": prompts, "reward": lambda completions, **_: [float(len(c)) for c in completions]}  # fmt: skip
    if settings["algorithm"] == "dpo":
        long = [" " + " ".join(words * 9), " " + " ".join(words[::-1] * 9)]
        data = {"pairs": [{"prompt": p, "chosen": long[0], "rejected": long[1]} for p in prompts]}
    memory = PeakMemory(torch.device("cpu"))
    before = psutil.Process().memory_info().rss
    model: Any = LlamaForCausalLM(config(**settings["shape"]))
    if settings["lora"]:
        model = with_adapter(model, LoRA())
    policy = Policy(model, tokenizer, settings["dtype"], gradient_checkpointing=settings["checkpointing"])
    train(algorithm, policy, sampling=sampling, budget="2iterations", micro_batch=settings["micro_batch"] or None, **data)  # fmt: skip
    return int(memory.mebibytes() * 2**20) - before


if __name__ == "__main__":
    print(run(json.loads(sys.argv[1])))
