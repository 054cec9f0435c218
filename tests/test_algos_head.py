"""The head and its log-softmax in chunks: the same numbers as in one piece, without [B, T, V]."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import gpt2, rollouts_of, word_tokenizer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from algos import DPO, PPO, REINFORCE, Policy, Sampling, train
from algos.engine.fast import head as module
from algos.engine.fast.head import linear_head, selected_logps
from algos.engine.forward import forward, response_logits, token_logps

N, H, V = 7, 5, 11


def world(dtype: torch.dtype = torch.float64, bias: bool = True) -> tuple[Tensor, nn.Linear, Tensor]:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(H, V, bias=bias, dtype=dtype)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    hidden = torch.randn(N, H, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, head, torch.randint(0, V, (N,), generator=generator)


def in_one_piece(hidden: Tensor, head: nn.Linear, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logps = (head(hidden) / temperature).log_softmax(-1)
    return logps.gather(-1, ids[:, None]).squeeze(-1), -(logps.exp() * logps).sum(-1)


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunks_give_what_one_piece_gives(
    monkeypatch: pytest.MonkeyPatch, rows: int, bias: bool, temperature: float
) -> None:
    monkeypatch.setattr(module, "CHUNK", rows * V)
    hidden, head, ids = world(bias=bias)
    weights = torch.linspace(-1, 2, N, dtype=torch.float64)
    leaves = [hidden, *head.parameters()]
    expected = in_one_piece(hidden, head, ids, temperature)
    found = selected_logps(hidden, head, ids, temperature)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad((found[0] * weights).sum(), leaves),
        torch.autograd.grad((expected[0] * weights).sum(), leaves),
    )
    assert not found[1].requires_grad


def test_the_gradient_by_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 3 * V)
    hidden, head, ids = world()
    assert torch.autograd.gradcheck(
        lambda hidden: selected_logps(hidden, head, ids, 0.7)[0], hidden, fast_mode=False
    )


def test_large_logits_do_not_overflow() -> None:
    hidden, head, ids = world(torch.float32)
    logps, entropy = selected_logps(1e6 * hidden, head, ids, 1.0)
    assert bool(logps.isfinite().all())
    assert bool((entropy >= 0).all())


def test_bf16_products_keep_the_log_softmax_in_fp32() -> None:
    hidden, head, ids = world(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logps, _ = selected_logps(hidden, head, ids, 1.0)
        expected = head(hidden).float().log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1)
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, expected)
    found, wanted = (
        torch.autograd.grad(x.sum(), [hidden, head.weight], retain_graph=True) for x in (logps, expected)
    )
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head, ids = world()
    head.requires_grad_(False)
    selected_logps(hidden, head, ids, 1.0)[0].sum().backward()
    assert head.weight.grad is None
    assert hidden.grad is not None


# Which models ------------------------------------------------------------------------------------------------


def gemma(cap: float | None) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=16,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
            final_logit_softcapping=cap,
        )
    ).eval()


def test_a_cap_on_the_logits_is_noticed() -> None:
    assert linear_head(gpt2(16).eval()) is not None
    assert linear_head(gemma(None)) is not None
    assert linear_head(gemma(30.0)) is None


def test_an_adapter_on_the_head_is_noticed() -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM")
    assert linear_head(get_peft_model(gpt2(16), config).eval()) is None


def test_both_ways_through_a_model_agree() -> None:
    model = gpt2(16).double().eval()
    rollouts = rollouts_of([[3, 2], [5]], [[[4, 1, 0], [2]], [[7, 7], [9, 8, 3]]])
    outputs = forward(model, rollouts, 0.7, torch.float64)
    expected = token_logps(response_logits(model, rollouts, 0.7)[0], rollouts.response_ids_PGT)
    for found, wanted in zip((outputs.logps_PGT, outputs.entropy_PGT), expected, strict=True):
        torch.testing.assert_close(found, torch.where(rollouts.mask_PGT, wanted, 0.0))


# What is never made ------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The most elements a tensor made inside the block had."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_iter(out) if isinstance(x, Tensor) and x.is_floating_point()]
        self.elements = max([self.elements, *sizes])
        return out


@pytest.mark.parametrize("algorithm", [REINFORCE(), PPO(), PPO(value_model="separate"), DPO(batch_size=4)])
def test_no_tensor_of_all_tokens_and_the_vocabulary(monkeypatch: pytest.MonkeyPatch, algorithm: Any) -> None:
    words = [f"w{i}" for i in range(2000)]
    tokenizer = word_tokenizer(" ".join(words))
    policy = Policy(gpt2(len(tokenizer)), tokenizer, dtype="fp32")
    V, T, rows = len(tokenizer), 12, 16
    # Decoding needs a row of logits a response; an iteration has T times as many tokens.
    monkeypatch.setattr(module, "CHUNK", rows * V)
    pairs = [
        {
            "prompt": words[i],
            "chosen": " ".join(words[i : i + 11]),
            "rejected": " ".join(words[i + 1 : i + 12]),
        }
        for i in range(8)
    ]
    source: dict[str, Any] = (
        {"pairs": pairs}
        if algorithm.name == "dpo"
        else {"prompts": words[:8], "reward": lambda prompts, completions, **_: [float(len(c)) for c in completions]}
    )  # fmt: skip
    with Largest() as largest:
        train(
            algorithm,
            policy,
            sampling=Sampling(max_new_tokens=T, group_size=4, prompts_per_iteration=4),
            budget="2iterations",
            **source,
        )
    assert rows * V <= largest.elements < 2 * rows * V
    assert 2 * rows * V < 8 * T * V  # DPO's batch of four pairs, the smallest
