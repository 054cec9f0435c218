"""Log-probabilities of responses in a padded batch against plain, unpadded transformers forwards, by family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from parity_table import Row, Table
from parity_worlds import DTYPES, PAD, batch, tokenizer
from torch import Tensor

from algos.engine.forward import forward
from algos.engine.rollouts import Rollouts

pytestmark = pytest.mark.parity

SIZES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 32,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "Llama": SIZES,
    "Qwen2": SIZES,
    "Gemma2": SIZES | {"head_dim": 8},
    "GPTNeoX": {k: v for k, v in SIZES.items() if k != "num_key_value_heads"},
    "OPT": {
        "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 32, "word_embed_proj_dim": 16,
    },
    "Bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "Mistral": SIZES | {"sliding_window": None},
    "Phi": SIZES,
}  # fmt: skip
EAGER = ("Gemma2", "Bloom")


def family(name: str, dtype: torch.dtype) -> Any:
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(tokenizer()), bos_token_id=0, eos_token_id=0, pad_token_id=PAD,
        initializer_range=0.3, **FAMILIES[name],
    )  # fmt: skip
    if name == "OPT":
        config.init_std = 0.3
    kind = getattr(transformers, f"{name}ForCausalLM", None) or getattr(transformers, f"{name}LMHeadModel")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).to(dtype).eval()


@torch.no_grad()
def plain(model: Any, rollouts: Rollouts) -> Tensor:
    """Every row alone, without padding, mask or positions: transformers as anyone would call it."""
    found = []
    for p in range(rollouts.P):
        prompt = rollouts.prompt_ids_PL[p][rollouts.prompt_mask_PL[p]]
        for ids, mask in zip(rollouts.response_ids_PGT[p], rollouts.mask_PGT[p], strict=True):
            response = ids[mask]
            logits = model(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
            found.append(logits.log_softmax(-1).gather(-1, response[:, None]).squeeze(-1))
    return torch.cat(found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_log_probabilities_are_those_of_a_plain_forward(table: Table, name: str, dtype: torch.dtype) -> None:
    model, why = family(name, dtype), ""
    rollouts, tolerance = batch(), 0.0
    if name in EAGER:
        why = (
            "the family's only attention takes its softmax in fp32 whatever the weights are. In float64 without padding "
            "on the left, where it gives NaN: the mask, float64's least number, is −∞ in fp32"
        )
        tolerance = 1e-6
        if dtype == torch.float64:
            rollouts = batch(["a b", "c d", "b a", "e c"])
    with torch.no_grad():
        mine = forward(model, rollouts, 1.0, torch.float32).logps_PGT[rollouts.mask_PGT]
    theirs = plain(model, rollouts)
    assert float(theirs.std()) > 0.1, "a model whose distributions are uniform shows nothing"
    formula = f"`{name}`, left-padded prompts, right-padded responses"
    row = Row("Log-probabilities of responses", formula, forward, type(model).forward, why)
    table.agrees(row, mine, theirs, tolerance)
