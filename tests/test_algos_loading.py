"""Models that would be trained on other probabilities than they sample from, or than they learned, are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama, tiny_policy, word_tokenizer
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from algos import Policy, RewardModel, UserError
from algos.engine.models.loading import read_tokenizer, require_causal


@pytest.mark.parametrize(
    ("kind", "settings", "cause"),
    [
        # A masked language model, which predicts a word from both sides of it.
        ("bert", {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}, "the words that follow"),
        # Recurrent layers that read padding as text.
        ("recurrent_gemma", {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
                             "lru_width": 32, "attention_window_size": 6}, "padding"),
    ],
)  # fmt: skip
def test_what_does_not_read_from_left_to_right_is_refused(
    tmp_path: Path, kind: str, settings: dict[str, int], cause: str
) -> None:
    tokenizer = word_tokenizer("a b c d e f")
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), initializer_range=0.5, pad_token_id=0, **settings
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"predicts a word otherwise depending on {cause}") as caught:
        Policy.load(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("own", [False, True])
def test_positions_that_begin_elsewhere_are_refused(tmp_path: Path, own: bool) -> None:
    """RoBERTa's first word stands behind the padding's own position: told that it is the first of all, it reads what it
    has never learned. BERT's does not."""
    tokenizer = word_tokenizer("a b c d e f")
    config = AutoConfig.for_model(
        "roberta" if own else "bert", vocab_size=len(tokenizer), initializer_range=0.5, pad_token_id=1, hidden_size=16,
        intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=32, is_decoder=True,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    if not own:
        assert Policy.load(tmp_path, device="cpu").max_positions == 32
        return
    with pytest.raises(UserError, match="depending on whether its positions begin at 0") as caught:
        Policy.load(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2}),
        # Here transformers makes a tokenizer that takes every text for unknown.
        ("gemma", {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                   "num_key_value_heads": 2, "head_dim": 8}),
    ],
)  # fmt: skip
def test_a_model_saved_without_its_tokenizer_is_refused(
    tmp_path: Path, kind: str, settings: dict[str, int]
) -> None:
    config = AutoConfig.for_model(kind, vocab_size=8, **settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for load in (lambda: Policy.load(tmp_path, device="cpu"), lambda: read_tokenizer(str(tmp_path), False)):
        with pytest.raises(UserError, match=r"^no tokenizer in .*\. Save it there with") as caught:
            load()
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    word_tokenizer("b").save_pretrained(tmp_path)  # all of one word and the unknown one
    assert len(read_tokenizer(str(tmp_path), False)) == 3


def test_a_reward_model_saved_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    """One that is made up would read every text as nothing and score them all alike."""
    config = AutoConfig.for_model("gpt2", vocab_size=8, n_embd=16, n_layer=1, n_head=2, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no tokenizer in"):
        RewardModel(tmp_path)


def test_a_tokenizer_that_cannot_be_made_up_is_asked_for(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "llama",
        vocab_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"Save its tokenizer there, too, with tokenizer\.save_pretrained"
    ) as caught:
        Policy.load(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


def half_only(module: Any, query: torch.Tensor, *rest: Any, **options: Any) -> Any:
    """What FlashAttention says of fp32, and computes of anything else."""
    if query.dtype == torch.float32:
        raise RuntimeError("FlashAttention only support fp16 and bf16\ndata type")
    return sdpa_attention_forward(module, query, *rest, **options)


def test_an_attention_that_refuses_fp32_is_told_with_another() -> None:
    """Weights are kept in fp32, whatever is multiplied in."""
    AttentionInterface.register("half_only", half_only)
    AttentionMaskInterface.register("half_only", sdpa_mask)
    tokenizer = word_tokenizer("a b c d e f")
    model = llama(len(tokenizer)).bfloat16()
    model.set_attn_implementation("half_only")
    with pytest.raises(UserError, match=r"attn_implementation='half_only' and weights in float32") as caught:
        Policy(model, tokenizer, dtype="bf16")
    assert "FlashAttention only support" in str(caught.value)
    assert 'Load it with attn_implementation="sdpa"' in str(caught.value)
    assert "\n" not in str(caught.value)
    model.set_attn_implementation("sdpa")
    Policy(model, tokenizer, dtype="bf16")


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_what_is_asked_of_a_model_is_computed_in_fp32(precision: str) -> None:
    """In TF32, or in bf16 as some CPUs do, rounding is taken for an attention that depends on padding."""
    policy = tiny_policy("llama", "a b c d e f")
    seen: list[str] = []
    policy.model.register_forward_pre_hook(
        lambda *_: seen.append(torch.backends.mkldnn.matmul.fp32_precision)
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        require_causal(policy.model, "a model")
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["ieee"] * 3
