"""What is done otherwise on a GPU because of what it is, where there is none: its facts are made up."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from known import a_policy
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from algos.advantages import gae
from algos.engine import forward as forward_module
from algos.engine import memory
from algos.engine.fast import parts
from algos.engine.fast.head import _Logits, declare_linear_head
from algos.engine.forward import groups_per_forward, response_logits
from algos.engine.memory import MAX_ACTIVATIONS, activations_at_once
from algos.engine.rollouts import Rollouts

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """From now on a GPU has so many GiB, of which this process may have a share."""

    def there_is(gibibytes: float, share: float = 1.0) -> None:
        properties = SimpleNamespace(total_memory=int(gibibytes * 2**30))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _: share)

    return there_is


def test_activations_take_a_share_of_a_gpus_memory(has: Callable[[float, float], None]) -> None:
    assert activations_at_once(CPU) == MAX_ACTIVATIONS
    has(80, 1.0)
    assert activations_at_once(GPU) == 80 * 2**30 // 16  # numbers: 20 GiB in fp32
    assert activations_at_once(torch.device("cuda:1")) == activations_at_once(GPU)
    has(80, 0.25)  # of four workers each
    assert activations_at_once(GPU) == 80 * 2**30 // 64
    has(4, 1.0)
    assert activations_at_once(GPU) == MAX_ACTIVATIONS
    assert activations_at_once(CPU) == MAX_ACTIVATIONS


def texts(P: int, G: int) -> Rollouts:
    """28 tokens and 64 to each response, as in benchmarks/trainers."""
    return Rollouts(
        prompt_ids_PL=torch.ones(P, 28, dtype=torch.long),
        prompt_mask_PL=torch.ones(P, 28, dtype=torch.bool),
        response_ids_PGT=torch.ones(P, G, 64, dtype=torch.long),
        mask_PGT=torch.ones(P, G, 64, dtype=torch.bool),
        ended_PG=torch.ones(P, G, dtype=torch.bool),
    )


@pytest.mark.parametrize(("P", "G", "on_a_cpu"), [(8, 2, 5), (4, 4, 2), (16, 1, 11)])
@pytest.mark.parametrize("gibibytes", [24, 80])
def test_a_batch_of_half_a_billion_goes_through_at_once(
    has: Callable[[float, float], None],
    monkeypatch: pytest.MonkeyPatch,
    gibibytes: int,
    P: int,
    G: int,
    on_a_cpu: int,
) -> None:
    config = AutoConfig.for_model(
        "llama", hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
        intermediate_size=4864, vocab_size=151936,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    declare_linear_head(model, True)
    assert groups_per_forward(model, texts(P, G), backward=True) == on_a_cpu
    has(gibibytes, 1.0)
    monkeypatch.setattr(forward_module, "activations_at_once", lambda _: memory.activations_at_once(GPU))
    assert groups_per_forward(model, texts(P, G), backward=True) >= P


def test_a_gpu_takes_larger_parts_of_the_head() -> None:
    """A tensor without data stands for one that is not on a CPU."""
    hidden_NH, weight_VH = torch.empty(1024, 896, device="meta"), torch.empty(151936, 896, device="meta")
    assert len(_Logits(hidden_NH, weight_VH, None, 1.0).chunks()) == 3


def test_gae_goes_over_the_tokens_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is moved to is told here by its precision."""
    x, mask = torch.randn(3, 5), torch.rand(3, 5) < 0.8
    mask = mask.long().cummin(-1).values.bool()
    expected = gae(x, -x, mask)
    moved: list[Tensor] = []

    def cpu(self: Tensor) -> Tensor:
        moved.append(self)
        return self if self.dtype == torch.bool else self.double()

    monkeypatch.setattr(Tensor, "cpu", cpu)
    found = gae(x, -x, mask)
    assert len(moved) == 3
    assert [each.dtype for each in found] == [torch.float64] * 2
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.float(), theirs)


def test_evaluation_has_a_linear_heads_logits_as_training_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp32; a product of factors in bf16 and sums in fp32 stands for the GPU's."""
    policy, rollouts = a_policy("qwen2"), texts(2, 2)
    model: Any = policy.model
    whole = [response_logits(model, rollouts, 1.0)[0]]
    monkeypatch.setattr(parts, "wide_product", lambda a, b, _: a.float() @ b.float().t())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded, _ = response_logits(model, rollouts, 1.0)
        for module in (parts, forward_module):
            monkeypatch.setattr(module, "rounds_sums", lambda _: True)
        found, _ = response_logits(model, rollouts, 1.0)
        assert "forward" not in vars(model.lm_head)
        with torch.enable_grad():  # training through the model itself stays as its scoring is
            whole.append(response_logits(model, rollouts, 1.0)[0])
        assert torch.equal(response_logits(model.train(), rollouts, 1.0)[0], rounded)  # is called as it is
        model.eval()
        declare_linear_head(model, False)
        assert torch.equal(response_logits(model, rollouts, 1.0)[0], rounded)
    assert torch.equal(whole[1], rounded)
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert not torch.equal(found, found.bfloat16().float())
    torch.testing.assert_close(found, rounded, atol=0.1, rtol=0.02)
