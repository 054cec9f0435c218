"""Decoding by the layers themselves: what transformers computes, tried out before it is relied on."""

from __future__ import annotations

import copy
import gc
import logging
import weakref
from typing import Any

import pytest
import torch
from families import FAMILIES, WINDOW
from known import KNOWN, PROMPTS, SIZES, a_policy, with_loud_adapter
from tiny import gpt2, llama, rollouts_of, tiny_policy, word_tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from algos import Policy, Sampling, sample
from algos.engine import decoding
from algos.engine.critic import Critic
from algos.engine.fast.direct import direct, direct_trunk
from algos.engine.inputs import inputs_for
from algos.engine.scoring import score_policy


@pytest.mark.parametrize("kind", KNOWN)
def test_the_same_samples_as_through_the_model(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, sampling = a_policy(kind), Sampling(max_new_tokens=10, group_size=6)
    assert direct(policy.model) is not None
    found = sample(policy, PROMPTS, sampling, 0)
    assert found.lengths_PG.unique().numel() > 2  # rows left the batch on the way
    monkeypatch.setattr(decoding, "direct", lambda _: None)
    expected = sample(policy, PROMPTS, sampling, 0)
    assert torch.equal(found.response_ids_PGT, expected.response_ids_PGT)
    torch.testing.assert_close(found.sampler_logps_PGT, expected.sampler_logps_PGT, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["Gemma 2", "OPT", "BLOOM", "Mistral"])
def test_other_families_go_through_the_model(name: str) -> None:
    """Mistral's window keeps less of a text than all its keys and values."""
    assert direct(FAMILIES[name].policy().model) is None


def test_who_asks_is_told_that_it_goes_through_the_model(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "algos"):
        direct(FAMILIES["Gemma 2"].policy().model)
        direct(tiny_policy("llama").model)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["Gemma2Model is read through transformers' own layers."]


@pytest.mark.parametrize("name", ["GPT-2", "Llama, tied", "Mistral", "Qwen 2", "Qwen 3"])
def test_a_value_model_of_its_own_reads_what_its_trunk_reads(name: str) -> None:
    """Beyond the windows that some layers have, too."""
    policy = FAMILIES[name].policy()
    critic = Critic(policy.model, "separate")
    nn.init.normal_(critic.head.weight)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 12, (3, 2 * WINDOW + 4), generator=generator).tolist()
    rollouts = rollouts_of([row[:3] for row in ids], [[row[3:]] for row in ids])
    trunk: Any = critic.trunk
    with torch.no_grad():
        hidden = trunk(input_ids=rollouts.input_ids_BS()[:, :-1]).last_hidden_state[:, 2:]
        expected = critic.head(hidden).view(rollouts.mask_PGT.shape)
        torch.testing.assert_close(critic(rollouts, None), expected, atol=1e-5, rtol=1e-4)
    known = direct_trunk(critic, critic.trunk)
    assert (known is None) == (name in ("Mistral", "Qwen 2"))


def test_a_copy_of_a_value_model_reads_with_its_own_trunk() -> None:
    critic = Critic(tiny_policy("llama").model, "separate")
    nn.init.normal_(critic.head.weight)
    rollouts = rollouts_of([[3, 2, 1]], [[[1, 2, 0]]])
    critic(rollouts, None)
    other = copy.deepcopy(critic)
    other(rollouts, None).sum().backward()
    assert all(p.grad is None for p in critic.parameters())
    assert all(p.grad is not None for p in other.parameters())
    critic.trunk = tiny_policy("gpt2").model.base_model
    assert critic(rollouts, None).shape == (1, 1, 3)
    gone = weakref.ref(critic.trunk)
    del critic
    gc.collect()
    assert gone() is None


class Doubled(nn.Module):
    """A part that is not what its name says."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return 2 * self.part(*arguments, **keywords)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_a_model_that_computes_something_else_is_noticed(make: Any) -> None:
    assert direct(make(16).eval()) is not None
    without = make(16).eval()
    layers = without.transformer.h if make is gpt2 else without.model.layers
    layers[0] = Doubled(layers[0])  # has not the parts of a layer
    assert direct(without) is None
    otherwise = make(16).eval()
    layer = otherwise.transformer.h[0] if make is gpt2 else otherwise.model.layers[0]
    layer.register_forward_hook(lambda _, inputs, out: out + 0.01 * inputs[0])
    assert direct(otherwise) is None


def test_fewer_layers_than_the_model_has() -> None:
    model = llama(16).eval()
    model.config.num_hidden_layers = 1
    assert direct(model) is None


def test_a_window_that_the_cache_does_not_tell_of() -> None:
    config = AutoConfig.for_model(
        "mistral", vocab_size=16, **SIZES | {"sliding_window": 4, "layer_types": ["full_attention"] * 2}
    )
    assert direct(AutoModelForCausalLM.from_config(config).eval()) is None


def test_adapters_are_in_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(with_loud_adapter(), word_tokenizer("a b c d e f g h i j"), dtype="fp32")
    assert direct(policy.model) is not None
    sampling = Sampling(max_new_tokens=8, group_size=6)
    found = sample(policy, PROMPTS, sampling, 0)
    monkeypatch.setattr(decoding, "direct", lambda _: None)
    expected = sample(policy, PROMPTS, sampling, 0)
    torch.testing.assert_close(found.sampler_logps_PGT, expected.sampler_logps_PGT, atol=2e-5, rtol=2e-5)
    with policy.model.disable_adapter():
        plain = sample(policy, PROMPTS, sampling, 0)
    assert not torch.equal(found.response_ids_PGT, plain.response_ids_PGT)


def test_adapters_that_come_later_are_too() -> None:
    from algos.engine.models.policy import LoRA, with_adapter

    model = llama(12).eval()
    layers = direct(model)
    assert layers is not None
    x = torch.randn(3, 16)
    before = layers.layers[0].out(x)
    adapted = with_adapter(model, LoRA(rank=2))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(weight)
    assert direct(adapted) is layers
    assert not torch.allclose(layers.layers[0].out(x), before)


def test_it_goes_with_its_model() -> None:
    policy = tiny_policy()
    assert direct(policy.model) is not None
    gone = weakref.ref(policy.model)
    del policy
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("where", ["model", "trunk", "block", "attention", "head"])
def test_who_changes_what_a_module_gives_is_obeyed(kind: str, where: str) -> None:
    """In training and in sampling, from the moment the hook is there until it goes: steering, patching, probing."""
    policy = a_policy(kind)
    trunk = policy.inner.base_model
    block = (trunk.h if kind == "gpt2" else trunk.layers)[1]
    module = {
        "model": policy.inner,
        "trunk": trunk,
        "block": block,
        "attention": block.attn if kind == "gpt2" else block.self_attn,
        "head": policy.inner.get_output_embeddings(),
    }[where]
    rollouts = rollouts_of([[1, 2], [3]], [[[4, 5], [6]], [[5], [7, 8]]])
    before = score_policy(policy, rollouts, 1.0)[0]
    handle = module.register_forward_hook(lambda *given: _moved(given[-1]))
    found = score_policy(policy, rollouts, 1.0)[0]
    with torch.no_grad():
        logits = policy.model(
            **inputs_for(policy.model, rollouts.input_ids_BS(), rollouts.attention_mask_BS())
        ).logits
    T = rollouts.T
    expected = (
        logits[:, -T - 1 : -1].log_softmax(-1).gather(-1, rollouts.response_ids_PGT.flatten(0, 1)[..., None])
    )
    expected_PGT = expected.squeeze(-1).view_as(found)
    assert float((found - before)[rollouts.mask_PGT].abs().max()) > 0.01
    torch.testing.assert_close(
        found[rollouts.mask_PGT], expected_PGT[rollouts.mask_PGT], atol=1e-4, rtol=1e-4
    )
    drawn = sample(policy, [[1, 2], [3]], Sampling(max_new_tokens=3, group_size=2), 0)
    assert drawn.sampler_logps_PGT is not None
    again = score_policy(policy, drawn, 1.0)[0]
    torch.testing.assert_close(
        drawn.sampler_logps_PGT[drawn.mask_PGT], again[drawn.mask_PGT], atol=1e-4, rtol=1e-4
    )
    handle.remove()
    assert torch.equal(score_policy(policy, rollouts, 1.0)[0], before)


def _moved(given: Any) -> Any:
    """What a module gives, with all its numbers moved, the first of it that is a tensor."""
    if isinstance(given, torch.Tensor):
        return given + torch.linspace(-1, 1, given.shape[-1])
    if isinstance(given, tuple):
        return (_moved(given[0]), *given[1:])
    name = next(iter(given))
    given[name] = _moved(given[name])
    return given
