"""Parts as functions: what the modules compute, and the modules themselves where more is to happen than that."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import FAMILIES
from known import KNOWN, a_policy, with_loud_adapter
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.pytorch_utils import Conv1D

from algos import Sampling, sample
from algos.engine import memory
from algos.engine.fast import parts, products
from algos.engine.fast.direct import direct
from algos.engine.fast.kernels import patch_kernels
from algos.engine.fast.parts import function_of, wide_function_of
from algos.engine.fast.products import packed


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MIN_PRODUCTS", 1)


def feed_forward(kind: str) -> nn.Module:
    trunk: Any = a_policy(kind).model.base_model
    return trunk.h[0].mlp if kind == "gpt2" else trunk.layers[0].mlp


def modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    found = {
        "norm": nn.LayerNorm(32, eps=1e-3), "linear": nn.Linear(32, 5), "without bias": nn.Linear(32, 5, bias=False),
        "Conv1D": Conv1D(5, 32), "GELU": ACT2FN["gelu_pytorch_tanh"], "SiLU": ACT2FN["silu"], "torch's SiLU": nn.SiLU(),
    } | {kind: feed_forward(kind) for kind in KNOWN}  # fmt: skip
    for module in found.values():
        for weight in module.parameters():
            nn.init.normal_(weight)
    whole = nn.ModuleDict(found).eval()
    patch_kernels(whole)
    return dict(whole.items())


@pytest.mark.parametrize("name", modules())
def test_a_function_computes_what_its_module_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both through MKL, but where weights are packed."""
    monkeypatch.setattr(products, "least_products", lambda: products.NEVER)
    module, x = modules()[name], torch.randn(3, 32)
    with torch.no_grad():
        function = function_of(module)
        assert function is not module
        torch.testing.assert_close(function(x), module(x))
        with packed(module, rows=3):
            torch.testing.assert_close(function_of(module)(x), module(x), atol=1e-4, rtol=1e-4)


def test_of_words() -> None:
    words = nn.Embedding(7, 4, padding_idx=0).eval()
    ids = torch.tensor([3, 0, 3])
    assert torch.equal(function_of(words)(ids), words(ids))


def doubled(_: nn.Module, __: Any, given: Tensor) -> Tensor:
    return 2 * given


@pytest.mark.parametrize("name", modules())
def test_a_module_that_is_watched_is_called(name: str) -> None:
    module, x = modules()[name], torch.randn(3, 32)
    expected = 2 * module(x)
    module.register_forward_hook(doubled)
    assert function_of(module) is module
    torch.testing.assert_close(function_of(module)(x), expected)


@pytest.mark.parametrize("part", ["c_fc", "act", "c_proj"])
def test_a_part_of_a_layer_that_is_watched_is_called(part: str) -> None:
    module, x = modules()["gpt2"], torch.randn(3, 32)
    getattr(module, part).register_forward_hook(doubled)
    with torch.no_grad(), packed(module, rows=3):
        torch.testing.assert_close(function_of(module)(x), module(x), atol=1e-4, rtol=1e-4)


def test_modules_that_do_something_else_are_called() -> None:
    another = type("Another", (nn.LayerNorm,), {"forward": lambda self, x: -F.layer_norm(x, (4,))})(4).eval()
    instead = nn.LayerNorm(4).eval()
    instead.forward = lambda x: 0 * x  # type: ignore[method-assign]
    dropping = copy.deepcopy(modules()["gpt2"]).train()
    for module in (another, instead, dropping, GPT2MLP(8, FAMILIES["GPT-2"].policy().model.config)):
        assert function_of(module) is module


@pytest.mark.parametrize("kind", KNOWN)
def test_prompts_read_in_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, prompts, sampling = (
        a_policy(kind),
        [[1, 2, 3], [4], [5, 6], [7, 8], [2]],
        Sampling(max_new_tokens=6),
    )
    assert direct(policy.model) is not None
    read: list[Tensor] = []
    policy.model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: read.append(ids[0]))
    whole = sample(policy, prompts, sampling, 0)
    before = len(read)
    monkeypatch.setattr(memory, "CACHED_TOKENS", 7)  # two prompts of three
    found = sample(policy, prompts, sampling, 0)
    assert len(read) - before == before + 2  # the prompts in three parts, not in one
    assert torch.equal(found.response_ids_PGT, whole.response_ids_PGT)
    torch.testing.assert_close(found.sampler_logps_PGT, whole.sampler_logps_PGT)


@pytest.mark.parametrize(
    ("biases", "together"), [((True,) * 3, 1), ((False,) * 3, 1), ((True, False, True), 3)]
)
def test_linear_layers_of_the_same_tensor_as_one_product(
    biases: tuple[bool, ...], together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; in `together` products."""
    linears = [nn.Linear(8, n, bias=bias) for n, bias in zip((4, 2, 2), biases, strict=True)]
    x, products = torch.randn(5, 8), []
    expected = [linear(x) for linear in linears]
    monkeypatch.setattr(parts, "_is_plain_on_gpu", lambda _: True)
    whole = parts.together([linear.eval() for linear in linears])
    monkeypatch.setattr(F, "linear", lambda *given, linear=F.linear: products.append(1) or linear(*given))
    for found, one in zip(whole(x), expected, strict=True):
        torch.testing.assert_close(found, one)
    assert len(products) == together


def layers_with_adapters(kind: str) -> Any:
    """The first block's linear layers with adapters that say something."""
    model = with_loud_adapter(lambda _: a_policy(kind).model)
    trunk: Any = model.get_base_model().base_model
    block = trunk.h[0] if kind == "gpt2" else trunk.layers[0]
    found = [
        module
        for module in block.modules()
        if type(module).__name__ == "Linear" and hasattr(module, "lora_A")
    ]
    assert len(found) == (4 if kind == "gpt2" else 7)
    return model.eval(), found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_an_adapter_is_taken_apart(kind: str, dtype: torch.dtype) -> None:
    """To the last bit, casts included."""
    _, layers = layers_with_adapters(kind)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        for layer in layers:
            function, x = function_of(layer), torch.randn(3, layer.in_features)
            assert function is not layer
            found, expected = function(x), layer(x)
            assert found.dtype == expected.dtype == dtype
            assert torch.equal(found, expected)
            assert not torch.equal(found, layer.base_layer(x))


def merge(model: Any, layer: Any) -> None:
    layer.merge()


def disable(model: Any, layer: Any) -> None:
    layer.enable_adapters(False)


def watch(model: Any, layer: Any) -> None:
    layer.register_forward_hook(doubled)


def drop_out(model: Any, layer: Any) -> None:
    layer.lora_dropout["default"] = nn.Dropout(0.5).eval()


def vary(model: Any, layer: Any) -> None:
    layer.lora_variant["default"] = SimpleNamespace(forward=lambda *_, result, **__: 3 * result)


def narrow(model: Any, layer: Any) -> None:
    layer.lora_A.to(torch.float64), layer.lora_B.to(torch.float64)


def activate_two(model: Any, layer: Any) -> None:
    from peft import LoraConfig

    model.add_adapter("other", LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.base_model.set_adapter(["default", "other"])
    nn.init.normal_(layer.lora_B["other"].weight)


@pytest.mark.parametrize("change", [merge, disable, watch, drop_out, vary, narrow, activate_two])
def test_an_adapter_that_is_more_than_an_adapter_is_called(change: Any) -> None:
    model, (layer, *_) = layers_with_adapters("llama")
    x = torch.randn(3, layer.in_features)
    with torch.no_grad():
        before = layer(x)
        change(model, layer)
        assert function_of(layer) is layer
        assert change in (merge, narrow, drop_out) or not torch.allclose(layer(x), before)


def test_what_is_in_an_adapter_may_be_watched() -> None:
    _, (layer, *_) = layers_with_adapters("llama")
    x = torch.randn(3, layer.in_features)
    layer.base_layer.register_forward_hook(doubled)
    with torch.no_grad():
        assert torch.equal(function_of(layer)(x), layer(x))


def test_a_heads_logits_are_not_rounded_where_a_gpu_would_round_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here by a product that stands for the GPU's, of factors in bf16 and sums in fp32."""
    head, x = nn.Linear(32, 50, bias=False).eval(), torch.randn(2, 3, 32)
    monkeypatch.setattr(parts, "wide_product", lambda a, b, _: a.float() @ b.float().t())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert wide_function_of(head)(x).dtype == torch.bfloat16  # a CPU has rounded them already
        monkeypatch.setattr(parts, "rounds_sums", lambda _: True)
        found = wide_function_of(head)(x)
        head.register_forward_hook(doubled)
        assert wide_function_of(head) is head
    torch.testing.assert_close(found, x.bfloat16().float() @ head.weight.bfloat16().float().t())
    assert not torch.equal(found, found.bfloat16().float())


def test_a_cpu_rounds_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert not products.rounds_sums("cpu")
    assert not products.rounds_sums("cuda")
    monkeypatch.setattr(products, "multiplied_in", lambda *_: torch.bfloat16)
    assert products.rounds_sums("cuda")
    assert not products.rounds_sums("cpu")
