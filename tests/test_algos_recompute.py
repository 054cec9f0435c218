"""Gradient checkpointing: the same run, with less kept and another forward pass."""

from __future__ import annotations

import pytest
import torch
from tiny import gpt2, llama, rollouts_of, same_weights, word_tokenizer
from tiny_runs import ALGORITHMS, run

from algos import Policy, UserError
from algos.engine import recompute
from algos.engine.forward import forward
from algos.engine.recompute import recomputable


def checkpointed(on: bool, dropout: float = 0.0) -> Policy:
    """In double precision: what rounding leaves of a gradient that is 0, as that of the keys' bias, AdamW makes a
    step of, and with checkpoints a prompt is read for every response."""
    tokenizer = word_tokenizer("a b")
    model = gpt2(len(tokenizer), dropout=dropout).double()
    return Policy(model, tokenizer, dtype="fp32", gradient_checkpointing=on)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_run_with_gradient_checkpointing_is_the_run_without(name: str, dropout: float) -> None:
    """Dropout stays off: transformers' own switch works in training mode alone."""
    plain, again = checkpointed(False), checkpointed(True, dropout)
    run(ALGORITHMS[name], plain)
    run(ALGORITHMS[name], again)
    for p, q in zip(plain.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert not same_weights(again, checkpointed(False))


def test_layers_are_as_they_were_behind_the_block() -> None:
    policy = checkpointed(True)
    with policy.for_backward(None):
        assert all("forward" in vars(layer) for layer in recomputable(policy.model))
    assert not any("forward" in vars(layer) for layer in recomputable(policy.model))
    with pytest.raises(KeyError), policy.for_backward():
        raise KeyError
    assert not any("forward" in vars(layer) for layer in recomputable(policy.model))


def stored_bytes(policy: Policy) -> int:
    """What a forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    rollouts = rollouts_of([[1] * 12] * 8, [[[2] * 12]] * 8)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), policy.for_backward():
        forward(policy.model, rollouts, 1.0, policy.dtype)
    return sum(kept.values()) - sum(p.untyped_storage().nbytes() for p in policy.model.parameters())


def test_gradient_checkpointing_keeps_less() -> None:
    tokenizer = word_tokenizer("a b")
    plain, less = (
        stored_bytes(Policy(llama(len(tokenizer), width=64), tokenizer, gradient_checkpointing=on))
        for on in (False, True)
    )
    assert less < plain / 3


def test_gradient_checkpointing_costs_another_forward() -> None:
    plain, again = checkpointed(False), checkpointed(True)
    assert (plain.backward_factor, again.backward_factor) == (6, 8)
    cost = [run(ALGORITHMS["ppo-separate"], p, budget="1iterations").rows[-1] for p in (plain, again)]
    # Policy and critic, each with one more forward pass over every token of four passes.
    prompts = sum(len(text.split()) for text in ("a", "b a b", "a b", "b")) * 4
    tokens = 4 * prompts + cost[0]["trained_tokens"]
    trunk = sum(p.numel() for p in plain.model.transformer.parameters())
    assert cost[1]["flops"] - cost[0]["flops"] == pytest.approx(2 * (plain.size + trunk) * tokens)


def test_a_model_without_layers_to_recompute_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "recomputable", lambda _: [])
    with pytest.raises(
        UserError, match="GPT2Model has no layers that gradient checkpointing could recompute"
    ):
        checkpointed(True)
