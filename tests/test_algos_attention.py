"""Attention as products: what the kernel computes, over groups and over whole texts."""

from __future__ import annotations

import pytest
import torch
from tiny import rollouts_of
from torch import Tensor
from torch.nn import functional as F

from algos.engine.fast import attention
from algos.engine.fast.attention import attend, attend_from_one, is_short
from algos.engine.fast.masks import Texts, padding_bias
from algos.engine.fast.places import Places
from algos.engine.rollouts import Rollouts

HEADS = {"each its own keys": (4, 4), "shared keys": (4, 2), "one key for all": (4, 1), "one head": (1, 1)}
BATCHES = {
    "groups": rollouts_of([[3, 2, 1], [1]], [[[1, 2, 0, 4], [2, 0]], [[1, 1, 3, 2], [0, 5, 5, 5]]]),
    "one group": rollouts_of([[3, 2, 1]], [[[1, 2, 0], [2, 0, 1], [3, 3, 3]]]),
    "one response each": rollouts_of([[3, 2], [1]], [[[1, 2, 0]], [[1, 1, 3]]]),
}


def texts_of(rollouts: Rollouts, whole: bool, dtype: torch.dtype = torch.float64) -> Texts:
    if whole:
        mask_BS = rollouts.attention_mask_BS()[:, :-1]
        return Texts.whole(mask_BS, Places.whole(mask_BS), dtype)
    return Texts.in_groups(rollouts, Places.in_groups(rollouts), dtype)


def drawn(texts: Texts, heads: tuple[int, int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries, keys and values as layers give them: parts of one wide tensor."""
    tokens, generator = len(texts.places.taken_M), torch.Generator().manual_seed(0)
    whole = torch.randn(tokens, heads[0] + 2 * heads[1], 8, generator=generator, dtype=dtype)
    parts = whole.split([heads[0], heads[1], heads[1]], dim=1)
    return [part.detach().requires_grad_() for part in parts]


def by_hand(texts: Texts, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """One query after another, of the padding, which is made of zeros, too: what it may read is said by the biases alone."""
    K, (P, G, L, R), taken = query.shape[1] // key.shape[1], texts.places.shape, texts.places.taken_M
    query, key, value = (
        x.new_zeros(P * (L + G * R), *x.shape[1:]).index_copy(0, taken, x) for x in (query, key, value)
    )
    key, value = key.repeat_interleave(K, dim=1), value.repeat_interleave(K, dim=1)
    found = []
    prompts = torch.arange(P * L).view(P, L)
    for p in range(P):
        for i in range(L):
            found.append(
                _one(
                    query[prompts[p, i]],
                    key[prompts[p]],
                    value[prompts[p]],
                    texts.prompts_P1LL[p, 0, i],
                    scale,
                )
            )
    for b in range(P * G):
        own = P * L + b * R + torch.arange(R)
        read = torch.cat([prompts[b // G], own])
        for i in range(R):
            bias = texts.responses_B1RS[b, 0, i]
            found.append(_one(query[own[i]], key[read], value[read], bias, scale))
    return torch.stack(found).flatten(1)[taken]


def _one(query_hD: Tensor, key_ShD: Tensor, value_ShD: Tensor, bias_S: Tensor, scale: float) -> Tensor:
    probabilities_hS = (torch.einsum("hd,shd->hs", query_hD, key_ShD) * scale + bias_S).softmax(-1)
    return torch.einsum("hs,shd->hd", probabilities_hS, value_ShD)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("heads", HEADS)
def test_products_and_kernel_read_the_same(
    heads: str, batch: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = texts_of(BATCHES[batch], whole)
    given = drawn(texts, HEADS[heads])
    expected = by_hand(texts, *given, scale=0.3)
    d_out = torch.randn(expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(expected, given, d_out)
    for most in (attention.MOST_KEPT, 0):
        monkeypatch.setattr(attention, "MOST_KEPT", most)
        found = attend(texts, *given, 0.3)
        assert ("Products" in type(found.grad_fn).__name__) == bool(most)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, given, d_out), gradients)


def test_what_may_be_read() -> None:
    """Prompts are padded on the left; a response reads its own prompt, itself, and nothing that comes later."""
    texts = texts_of(BATCHES["groups"], whole=False)
    first, second = (bias == 0 for bias in texts.prompts_P1LL[:, 0])
    assert first.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    # Padding reads itself, lest its softmax be of nothing.
    assert second.tolist() == [[True, False, False], [False, True, False], [False, False, True]]
    response = texts.responses_B1RS[2, 0] == 0
    assert response.tolist() == [
        [False, False, True, True, False, False],
        [False, False, True, True, True, False],
        [False, False, True, True, True, True],
    ]


def test_long_texts_and_narrow_heads_are_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_short(181)
    assert not is_short(182)
    texts = texts_of(BATCHES["groups"], whole=False, dtype=torch.float32)
    given = [x.detach().float().requires_grad_() for x in drawn(texts, (4, 2))]

    def by_products() -> bool:
        return "Products" in type(attend(texts, *given, 0.3).grad_fn).__name__

    assert by_products()
    monkeypatch.setattr(attention, "MOST_KEPT", (texts.places.L + texts.places.R - 1) / 8)
    assert not by_products()


@pytest.mark.parametrize("kinds", [(torch.bfloat16,) * 3, (torch.float32, torch.float32, torch.bfloat16)])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("heads", HEADS)
def test_half_precision_is_multiplied_in_fp32(
    heads: str, whole: bool, kinds: tuple[torch.dtype, ...]
) -> None:
    """Some of it only, as behind norms, too: no digit is lost but those of what is read and of what is given back."""
    texts = texts_of(BATCHES["groups"], whole, dtype=torch.float32)
    given = [
        (scale * x.detach())
        .to(kind)
        .requires_grad_()  # logits of a hundred, of which no digit may be rounded away
        for x, scale, kind in zip(drawn(texts, HEADS[heads]), (8, 8, 1), kinds, strict=True)
    ]
    exact = [x.detach().double().requires_grad_() for x in given]
    expected = by_hand(texts, *exact, scale=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(texts, *given, 0.3)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, atol=8e-3, rtol=8e-3)
    d_out = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    gradients = torch.autograd.grad(expected, exact, d_out.double())
    for one, right, kind in zip(torch.autograd.grad(found, given, d_out), gradients, kinds, strict=True):
        assert one.dtype == kind
        torch.testing.assert_close(one.double(), right, atol=8e-3 * float(right.abs().max()), rtol=8e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", HEADS)
def test_one_token_behind_those_in_the_cache(heads: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    (of_query, of_keys), B, S = HEADS[heads], 3, 5
    query = torch.randn(B, of_query, 8, generator=generator).to(dtype)
    room = torch.randn(2, B, of_keys, S + 4, 8, generator=generator).to(dtype)
    keys, values = room[..., :S, :]  # views, as the cache gives them
    bias = padding_bias(
        torch.tensor([[[True] * S], [[False] * 2 + [True] * 3], [[False] + [True] * 4]]), torch.float32
    ).expand(-1, of_keys, -1, -1)
    if dtype == torch.bfloat16:
        query, keys = 8 * query, 8 * keys  # logits of a hundred, of which no digit may be rounded away
    expected = F.scaled_dot_product_attention(
        query.double()[:, :, None],
        keys.double(),
        values.double(),
        bias[:, :1].double(),
        scale=0.3,
        enable_gqa=True,
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = attend_from_one(query, keys, values, bias.to(torch.promote_types(dtype, torch.float32)), 0.3)
        mixed = attend_from_one(query.float(), keys.float(), values, bias, 0.3)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype != torch.bfloat16 else 8e-3  # of what is written, half a digit in 256
    torch.testing.assert_close(found.double(), expected.flatten(1), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(mixed.double(), expected.flatten(1), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("whole", [False, True], ids=["groups", "whole"])
def test_nothing_wider_is_kept_for_the_backward_pass(name: str, whole: bool) -> None:
    """As a part of a tensor is kept with all of it, even an empty part."""
    texts, kept = texts_of(BATCHES[name], whole), list[Tensor]()

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    wide = torch.randn(len(texts.places.taken_M), 12, 8, dtype=torch.float64, requires_grad=True)
    query, key, value = wide.mul(1).unflatten(1, (3, 4)).unbind(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        attend(texts, query, key, value, 0.3)
    assert len(kept) == 8  # probabilities among them
    for x in kept:
        assert x.untyped_storage().nbytes() == x.numel() * x.itemsize
