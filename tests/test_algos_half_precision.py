"""Weights that come in half precision are trained in fp32; what is quantised is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import ROLLOUTS, gpt2, llama, word_tokenizer

from algos import Policy
from algos.engine.forward import forward


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_trained_in_fp32(dtype: torch.dtype) -> None:
    """As a checkpoint in bf16 is loaded by transformers: a step of 1e-6 must not vanish."""
    tokenizer = word_tokenizer("a b")
    model = llama(len(tokenizer)).to(dtype)
    model.lm_head.weight = model.model.embed_tokens.weight  # tied
    model.register_buffer("rounded", torch.ones(2, dtype=dtype))
    rounded = {name: p.float() for name, p in model.named_parameters()}
    policy = Policy(model, tokenizer, dtype="fp32")
    assert policy.model is model
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32
        assert torch.equal(p, rounded[name])
    assert model.rounded.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    weight = model.lm_head.weight
    before = weight.detach().clone()
    optimizer = torch.optim.AdamW(policy.trainable().values(), lr=1e-6)
    forward(policy.model, ROLLOUTS, 1.0, policy.dtype).logps_PGT.sum().backward()
    optimizer.step()
    assert not torch.equal(weight, before)


def test_fp64_stays_and_fp32_is_left_alone() -> None:
    tokenizer = word_tokenizer("a b")
    for kind in (torch.float32, torch.float64):
        model = gpt2(len(tokenizer)).to(kind)
        held = {name: p.data_ptr() for name, p in model.named_parameters()}
        policy = Policy(model, tokenizer, dtype="fp32")
        assert {name: p.data_ptr() for name, p in policy.model.named_parameters()} == held
        assert all(p.dtype == kind for p in policy.model.parameters())


@pytest.mark.parametrize("how", ["declared", "integers"])
def test_a_quantised_model_stays_as_it_is(how: str) -> None:
    """What its layers keep in half precision is theirs to decide."""
    tokenizer = word_tokenizer("a b")
    model: Any = gpt2(len(tokenizer)).bfloat16()
    if how == "declared":
        model.is_quantized = True
    else:
        model.packed = torch.nn.Parameter(torch.ones(2, dtype=torch.uint8), requires_grad=False)
    kinds = [x.dtype for x in (*model.parameters(), *model.buffers())]
    policy = Policy(model, tokenizer, dtype="fp32")
    assert [x.dtype for x in (*policy.model.parameters(), *policy.model.buffers())] == kinds
