"""oneDNN's products are torch's, with their gradients; where this processor has none, torch's are tried alone."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import rollouts_of, same_weights, tiny_policy
from tiny_runs import ALGORITHMS, run
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from algos import Sampling
from algos.engine.fast import products
from algos.engine.fast.processor import Processor
from algos.engine.fast.products import FastConv1D, FastLinear, multiplies_bf16, multiply_fast, packed, product
from algos.engine.sampling import sample

LEAST_PRODUCTS = products.least_products
needs_onednn = pytest.mark.skipif(
    not products.available(), reason="no oneDNN in this torch, or for this processor"
)
needs_bf16 = pytest.mark.skipif(not multiplies_bf16(), reason="this processor does not multiply in bf16")


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MIN_PRODUCTS", 1)


@pytest.fixture(autouse=True)
def wherever_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faster or not."""
    monkeypatch.setattr(products, "least_products", lambda: 1 if products.available() else products.NEVER)


def layers(bias: bool = True) -> list[nn.Module]:
    torch.manual_seed(0)
    conv = Conv1D(7, 5)
    nn.init.normal_(conv.bias)
    return [nn.Linear(5, 7, bias=bias), conv]


def grads(layer: nn.Module, x: Tensor, out: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], out.to(y.dtype))]


@pytest.mark.parametrize("onednn", [pytest.param(True, marks=needs_onednn), False])
def test_products_in_any_layout(monkeypatch: pytest.MonkeyPatch, onednn: bool) -> None:
    monkeypatch.setattr(products, "least_products", lambda: 1 if onednn else products.NEVER)
    a, b, bias = torch.randn(6, 4), torch.randn(3, 4), torch.randn(3)
    for left in (a, a.t().contiguous().t()):
        for right in (b, b.t().contiguous().t(), b.repeat(1, 2)[:, :4]):
            torch.testing.assert_close(product(left, right, bias), a @ b.T + bias)


@needs_onednn
@pytest.mark.parametrize("shape", [(2, 3, 5), (4, 5), (1, 5), (0, 5)])
def test_layers_and_their_gradients(shape: tuple[int, ...]) -> None:
    x, out = torch.randn(shape), torch.randn(*shape[:-1], 7)
    for layer in [*layers(), layers(bias=False)[0]]:
        expected = grads(copy.deepcopy(layer).double(), x.double(), out)
        multiply_fast(layer)
        assert isinstance(layer, (FastLinear, FastConv1D))
        assert (type(layer(x).grad_fn).__name__ == "_LinearBackward") == (x.numel() > 0)
        for found, right in zip(grads(layer, x, out), expected, strict=True):
            torch.testing.assert_close(found.double(), right, atol=1e-5, rtol=1e-5)


@needs_onednn
def test_frozen_weights_get_no_gradient() -> None:
    for layer in layers():
        multiply_fast(layer)
        layer.requires_grad_(False)
        x = torch.randn(3, 5, requires_grad=True)
        layer(x).sum().backward()
        assert x.grad is not None
        assert all(weight.grad is None for weight in layer.parameters())


@needs_onednn
def test_other_precisions_are_torchs() -> None:
    for layer in layers():
        plain = copy.deepcopy(layer)
        multiply_fast(layer)
        x = torch.randn(3, 5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
            assert torch.equal(layer(x), plain(x))
        assert torch.equal(layer.double()(x.double()), plain.double()(x.double()))


@needs_onednn
def test_packed_weights_for_the_block_alone() -> None:
    for layer in layers():
        multiply_fast(layer)
        x = torch.randn(4, 5)
        expected = layer(x).detach()
        with torch.no_grad(), packed(layer, 4):
            assert layer.packed is not None
            for rows in (1, 3, 4):
                torch.testing.assert_close(layer(x[:rows]), expected[:rows])
        assert layer.packed is None
        assert set(layer.state_dict()) == {"weight", "bias"}
        with torch.no_grad():
            layer.weight.mul_(2)
            layer.bias.mul_(2)
        torch.testing.assert_close(layer(x), 2 * expected)


@needs_onednn
@needs_bf16
def test_packed_in_what_autocast_multiplies_in() -> None:
    for layer in [*layers(), layers(bias=False)[0]]:
        multiply_fast(layer)
        x = torch.randn(4, 5)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            expected = layer(x)
            with packed(layer, 4):
                assert layer.packed is not None
                assert layer.packed.dtype == torch.bfloat16
                found = layer(x)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, expected)


@needs_onednn
def test_no_weights_are_laid_out_in_what_the_processor_does_not_multiply_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "multiplies_bf16", lambda: False)
    layer = layers()[0]
    multiply_fast(layer)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), packed(layer, 4):
        assert layer.packed is None
    assert products.packed_bytes(layer, 4, torch.bfloat16) == 0
    assert products.packed_bytes(layer, 4, torch.float32) == 5 * 7 * 4


@needs_onednn
def test_a_sample_is_the_same_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy("gpt2")
    sampling = Sampling(max_new_tokens=8, group_size=4)
    found = sample(policy, [[3, 2, 1], [1, 2]], sampling, seed=1)
    monkeypatch.setattr(products, "MIN_PRODUCTS", 2**60)
    monkeypatch.setattr(products, "least_products", lambda: products.NEVER)
    plain = sample(policy, [[3, 2, 1], [1, 2]], sampling, seed=1)
    assert torch.equal(found.response_ids_PGT, plain.response_ids_PGT)
    torch.testing.assert_close(found.sampler_logps_PGT, plain.sampler_logps_PGT)


@needs_onednn
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_run_again_to_the_last_bit(threads: int) -> None:
    """What resuming rests on."""
    before, found = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    try:
        for _ in range(2):
            found.append(tiny_policy())
            run(ALGORITHMS["ppo-separate"], found[-1], budget="2iterations")
    finally:
        torch.set_num_threads(before)
    assert same_weights(*found)
    assert not same_weights(found[0], tiny_policy())


def test_a_copy_and_what_is_saved_are_as_before() -> None:
    policy = tiny_policy("gpt2")
    rollouts = rollouts_of([[1, 2]], [[[1, 2, 0]]])
    other = copy.deepcopy(policy.model)
    assert list(other.state_dict()) == list(policy.model.state_dict())
    inputs = rollouts.input_ids_BS()
    assert torch.equal(other(input_ids=inputs).logits, policy.model(input_ids=inputs).logits)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)])
def test_gelu_in_the_same_pass_where_weights_are_laid_out(dtype: torch.dtype) -> None:
    x, tolerance = 3 * torch.randn(2, 3, 5), 1e-5 if dtype == torch.float32 else 5e-2
    for layer in layers():
        multiply_fast(layer)
        assert isinstance(layer, (FastLinear, FastConv1D))
        expected = F.gelu(layer(x), approximate="tanh").detach()
        assert layer.of_packed("gelu") is None
        half = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
        with torch.no_grad(), half, packed(layer, rows=6):
            at_once = layer.of_packed("gelu")
            assert at_once is not None
            found = at_once(x)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)


@needs_onednn
@pytest.mark.parametrize("name", ["reinforce", "ppo", "ppo-separate"])
def test_policy_and_reference_differ_by_nothing_before_the_first_update(name: str) -> None:
    """Whether or not a gradient is needed, the same kernels."""
    assert run(ALGORITHMS[name], budget="1iterations").rows[0]["kl/train"] == 0


@pytest.mark.parametrize(
    ("vendor", "family", "vectors", "least"),
    [
        ("AuthenticAMD", 26, "AVX512", "MIN_PRODUCTS"),
        ("AuthenticAMD", 25, "AVX512", "MIN_HALVED"),
        ("AuthenticAMD", 25, "AVX2", "NEVER"),
        ("GenuineIntel", 6, "AVX512", "NEVER"),
        ("", 0, "AVX512", "NEVER"),
    ],
)
def test_who_multiplies_faster_with_onednn(
    vendor: str, family: int, vectors: str, least: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "available", lambda: True)
    monkeypatch.setattr(products, "processor", lambda: Processor(vendor, family))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    assert LEAST_PRODUCTS.__wrapped__() == getattr(products, least)


def test_small_products_are_not_worth_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    through: list[bool] = []
    monkeypatch.setattr(products, "_onednn", lambda a, b, _: through.append(True) or a @ b.t())
    for more in (1, 0):
        monkeypatch.setattr(products, "least_products", lambda more=more: 6 * 4 * 3 + more)
        product(torch.randn(6, 4), torch.randn(3, 4))
        assert bool(through) is not bool(more)
