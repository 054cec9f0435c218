"""Tiny random models of many families of causal language models, for the matrix in docs/models.md."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tiny import word_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from algos import Policy

WORDS = "a b c d e f g h i j"
VOCABULARY = len(word_tokenizer(WORDS))
WINDOW = 6
"""Of sliding attention: prompts and responses of the matrix are longer together."""

_ROTARY = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
_PLAIN = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_SLIDING = {"sliding_window": WINDOW}
_EXPERTS = {"num_experts_per_tok": 2}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
_SOFT_CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8}
_SHARED = {
    "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8,
}  # fmt: skip
_DELTA = {
    "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}  # fmt: skip
_RECURRENT = 1e-4  # one step at a time and whole chunks are different sums
_EYES = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
_FIRST_FULL = ["full_attention", "sliding_attention", "sliding_attention"]


@dataclass(frozen=True)
class Family:
    """One row of the matrix: a model type of transformers with sizes that make it tiny."""

    name: str
    kind: str
    sizes: dict[str, Any] = field(default_factory=dict)
    special: str = ""
    """What sets it apart, for the table."""
    lora_targets: str = "all-linear"
    tolerance: float = 1e-5
    """How far log-probabilities of equal texts may lie apart."""

    def model(self, seed: int = 0, **changes: Any) -> PreTrainedModel:
        """Random fp32 weights whose next-token distributions are far from uniform."""
        ids = {"vocab_size": VOCABULARY, "eos_token_id": 0, "bos_token_id": 0, "pad_token_id": None}
        config = AutoConfig.for_model(self.kind, **(ids | self.sizes | changes))
        random = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, p in model.named_parameters():
            if p.dim() > 1 and "A_log" not in name and "conv" not in name:
                torch.nn.init.normal_(p, std=0.2, generator=random)
            elif name.endswith("bias") and not bool(p.any()):
                torch.nn.init.normal_(p, std=0.1, generator=random)
        return model

    def policy(self, **options: Any) -> Policy:
        return Policy(self.model(), word_tokenizer(WORDS), **({"dtype": "fp32"} | options))


FAMILIES = {
    family.name: family
    for family in [
        Family("GPT-2", "gpt2", _GPT, "absolute positions"),
        Family("GPT-Neo", "gpt_neo", {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": WINDOW,
               "attention_types": [[["global", "local"], 1]], "intermediate_size": 48, "max_position_embeddings": 64},
               "absolute positions, local attention"),
        Family("GPT-J", "gptj", _GPT | {"rotary_dim": 4}, "rotary, a bias at the head"),
        Family("GPT-NeoX, Pythia", "gpt_neox", _PLAIN, "partly rotary"),
        Family("GPT-BigCode", "gpt_bigcode", _GPT, "absolute positions, one key for all queries"),
        Family("CodeGen", "codegen", _GPT | {"rotary_dim": 4}, "rotary"),
        Family("OPT", "opt", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
               "word_embed_proj_dim": 16, "max_position_embeddings": 64, "dropout": 0.1},
               "absolute positions from 2, a projection before the head, dropout in its config"),
        Family("BLOOM", "bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, "ALiBi, no position ids"),
        Family("MPT", "mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "expansion_ratio": 2},
               "ALiBi, no position ids"),
        Family("Falcon", "falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
               "max_position_embeddings": 64}, "rotary, one key for all queries"),
        Family("Falcon, ALiBi", "falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
               "alibi": True}, "ALiBi"),
        Family("XGLM", "xglm", {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4,
               "max_position_embeddings": 64}, "sinusoids from 2"),
        Family("Llama, tied", "llama", _ROTARY | {"tie_word_embeddings": True}, "rotary, grouped queries"),
        Family("Llama, untied", "llama", _ROTARY | {"tie_word_embeddings": False}, "rotary, grouped queries"),
        Family("Mistral", "mistral", _ROTARY | _SLIDING, "sliding window"),
        Family("Mixtral", "mixtral", _ROTARY | _EXPERTS | {"num_local_experts": 3}, "mixture of experts"),
        Family("Ministral", "ministral", _ROTARY | _SLIDING | {"layer_types": _FIRST_FULL}, "sliding window in some layers"),
        Family("Qwen 2", "qwen2", _ROTARY | _SLIDING | {"use_sliding_window": True, "max_window_layers": 1},
               "sliding window in some layers"),
        Family("Qwen 2 MoE", "qwen2_moe", _ROTARY | _EXPERTS | {"num_experts": 3, "moe_intermediate_size": 16,
               "shared_expert_intermediate_size": 16}, "mixture of experts"),
        Family("Qwen 3", "qwen3", _ROTARY | {"tie_word_embeddings": True}, "normalised queries and keys"),
        Family("Qwen 3 MoE", "qwen3_moe", _ROTARY | _EXPERTS | {"num_experts": 3, "moe_intermediate_size": 16},
               "mixture of experts"),
        Family("Qwen 3 Next", "qwen3_next", _ROTARY | _DELTA | _EXPERTS | {"num_experts": 3, "moe_intermediate_size": 16,
               "shared_expert_intermediate_size": 16}, "gated delta rule and attention, mixture of experts", tolerance=_RECURRENT),
        Family("Qwen 3.5", "qwen3_5_text", _ROTARY | _DELTA, "gated delta rule and attention", tolerance=_RECURRENT),
        Family("Gemma", "gemma", _ROTARY, "scaled embeddings"),
        Family("Gemma 2", "gemma2", _ROTARY | _SLIDING | _SOFT_CAPS, "soft caps, sliding window in every other layer"),
        Family("Gemma 3", "gemma3_text", _ROTARY | _SLIDING | {"query_pre_attn_scalar": 8, "layer_types": _FIRST_FULL},
               "sliding window in most layers, two rotary bases"),
        Family("Gemma 3 with images", "gemma3", {"image_token_index": 11, "boi_token_index": 10, "eoi_token_index": 9,
               "mm_tokens_per_image": 4, "vision_config": _EYES, "text_config": _ROTARY | _SLIDING | {
               "vocab_size": VOCABULARY, "query_pre_attn_scalar": 8, "layer_types": _FIRST_FULL}},
               "the text model within a larger one"),
        Family("Gemma 3n", "gemma3n_text", _ROTARY | _SLIDING | _SHARED | {"laurel_rank": 4, "intermediate_size": [48] * 4,
               "activation_sparsity_pattern": [0.0] * 4}, "several streams, keys shared by layers, sliding window"),
        Family("Gemma 4", "gemma4_text", _ROTARY | _SLIDING | _SHARED | {"global_head_dim": 8},
               "keys shared by layers, sliding window"),
        Family("Phi", "phi", _PLAIN, "partly rotary, a bias at the head"),
        Family("Phi 3", "phi3", _ROTARY | _SLIDING, "fused projections, sliding window"),
        Family("GLM", "glm", _ROTARY, "partly rotary"),
        Family("GLM 4", "glm4", _ROTARY, "partly rotary, four norms a layer"),
        Family("Cohere", "cohere", _ROTARY | {"logit_scale": 1.0}, "scaled logits, parallel layers"),
        Family("Cohere 2", "cohere2", _ROTARY | _SLIDING | {"logit_scale": 1.0, "layer_types": _FIRST_FULL},
               "sliding window, no positions in full layers"),
        Family("StableLM", "stablelm", _ROTARY, "partly rotary"),
        Family("OLMo", "olmo", _ROTARY, "norms without weights"),
        Family("OLMo 2", "olmo2", _ROTARY, "norms behind the layers"),
        Family("OLMo 3", "olmo3", _ROTARY | _SLIDING | {"layer_types": _FIRST_FULL}, "sliding window in most layers"),
        Family("SmolLM 3", "smollm3", _ROTARY | {"num_hidden_layers": 4}, "no positions in every fourth layer"),
        Family("Granite", "granite", _ROTARY | {"logits_scaling": 2.0, "residual_multiplier": 0.5}, "scaled residuals and logits"),
        Family("StarCoder 2", "starcoder2", _ROTARY | _SLIDING, "sliding window"),
        Family("EXAONE 4", "exaone4", _ROTARY | _SLIDING | {"layer_types": _FIRST_FULL}, "sliding window, no positions in full layers"),
        Family("Nemotron", "nemotron", _ROTARY, "squared ReLU"),
        Family("DeepSeek 3", "deepseek_v3", _PLAIN | _EXPERTS | {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
               "qk_nope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
               "first_k_dense_replace": 1, "moe_intermediate_size": 16}, "latent attention, mixture of experts"),
        Family("GPT-OSS", "gpt_oss", _ROTARY | _SLIDING | _EXPERTS | {"num_local_experts": 3},
               "attention sinks, sliding window, mixture of experts"),
        Family("Mamba", "mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4},
               "state space, a cache of states", lora_targets="in_proj,x_proj"),
        Family("Jamba", "jamba", _ROTARY | {"num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2,
               "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
               "state space and attention, mixture of experts"),
        Family("Bamba", "bamba", _ROTARY | _MAMBA | {"attn_layer_indices": [1]}, "state space and attention"),
        Family("LFM 2", "lfm2", _ROTARY | {"layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 8},
               "convolutions and attention"),
        Family("GPT", "openai-gpt", _GPT, "no cache: every step reads the whole text"),
    ]
}  # fmt: skip


COLUMNS = {
    "padded": "padded less unpadded",
    "cached": "cached less forced",
    "reinforce": "REINFORCE",
    "ppo": "PPO",
    "ppo-separate": "PPO, own value network",
    "dpo": "DPO",
    "LoRA": "LoRA",
    "checkpointing": "gradient checkpointing",
    "bf16": "bf16",
    "reloaded": "saved and loaded",
}


class Matrix:
    """What the tests found of each family, and the table it becomes."""

    def __init__(self) -> None:
        self.cells: dict[str, dict[str, str]] = defaultdict(dict)

    def note(self, family: Family, column: str, found: float | str = "✓") -> None:
        """A largest difference, or that it holds."""
        assert column in COLUMNS
        self.cells[family.name][column] = (
            found if isinstance(found, str) else f"{found:.0e}".replace("e-0", "e-").replace("0e+00", "0")
        )

    def write(self, page: Path) -> None:
        """Puts the table between the page's marks; every cell must have been measured."""
        heads = ["family", "`model_type`", "head", *COLUMNS.values(), "what sets it apart"]
        rows = [self._row(family) for family in FAMILIES.values()]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))
        text = page.read_text(encoding="utf-8")
        marks = re.compile(r"(<!-- families -->\n).*?(\n<!-- /families -->)", re.DOTALL)
        assert len(marks.findall(text)) == 1
        page.write_text(marks.sub(lambda found: found[1] + table + found[2], text), encoding="utf-8")

    def _row(self, family: Family) -> list[str]:
        config = family.model().config.get_text_config()
        head = "tied" if config.tie_word_embeddings else "untied"
        cells = [self.cells[family.name][column] for column in COLUMNS]
        return [family.name, f"`{family.kind}`", head, *cells, family.special]
