"""One token more through the layers themselves, for the models whose layers are known.

What transformers does around the layers (masks made anew, caches looked up, outputs wrapped) takes longer for one token
of a small model than its layers do. Here the same modules are called in the same order, adapters in them included; only
attention's few lines are written again. Whether that is what a model computes is tried out, not assumed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algos.engine.cache import GrowingLayer, growing_cache
from algos.engine.head import linear_head, unwrapped
from algos.engine.inputs import positions

Module = Callable[[Tensor], Tensor]
Rotation = tuple[Tensor, Tensor] | None
"""Cosines and sines [B, 1, D] of the positions."""


@dataclass(frozen=True)
class Layer:
    """x + out(attention(heads(before(x)))), then x + mlp(between(x)): what GPT-2 and Llama have in common."""

    before: Module
    heads: Callable[[Tensor, Rotation], Sequence[Tensor]]
    """[B, 1, H] → query [B, heads, 1, D], key and value [B, heads of keys and values, 1, D]."""
    out: Module
    between: Module
    mlp: Module
    scale: float
    grouped: bool
    """Whether several heads share their keys and values."""

    def __call__(self, x_B1H: Tensor, rotation: Rotation, cache: GrowingLayer, bias_B11S: Tensor) -> Tensor:
        query, *new = self.heads(self.before(x_B1H), rotation)
        keys, values = cache.update(*new)
        read = F.scaled_dot_product_attention(
            query, keys, values, bias_B11S.to(query.dtype), scale=self.scale, enable_gqa=self.grouped
        )
        x_B1H = x_B1H + self.out(read.transpose(1, 2).flatten(2))
        return x_B1H + self.mlp(self.between(x_B1H))


@dataclass(frozen=True)
class Direct:
    """A model as embeddings, layers, a last norm and a head."""

    embed: Callable[[Tensor, Tensor], tuple[Tensor, Rotation]]
    layers: Sequence[Layer]
    norm: Module
    head: Module

    def step(self, token_B: Tensor, position_B: Tensor, bias_B11S: Tensor, cache: Any) -> Tensor:
        """Logits [B, V] behind one more token, which also goes into the cache. The bias is 0 where a token may be
        read and −inf on padding."""
        x_B1H, rotation = self.embed(token_B[:, None], position_B[:, None])
        for layer, states in zip(self.layers, cache.layers, strict=True):
            x_B1H = layer(x_B1H, rotation, states, bias_B11S)
        return self.head(self.norm(x_B1H))[:, 0]


def padding_bias(mask_BS: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, 1, S] to add to attention's logits: 0 on tokens, −inf on padding."""
    return torch.zeros(mask_BS.shape, dtype=dtype, device=mask_BS.device).masked_fill(~mask_BS, -torch.inf)[
        :, None, None
    ]


def _gpt2(model: Any) -> Direct:
    trunk = model.transformer

    def embed(ids_B1: Tensor, positions_B1: Tensor) -> tuple[Tensor, Rotation]:
        return trunk.wte(ids_B1) + trunk.wpe(positions_B1), None

    def heads_of(attention: Any) -> Callable[[Tensor, Rotation], Sequence[Tensor]]:
        width = attention.head_dim

        def heads(x_B1H: Tensor, _: Rotation) -> Sequence[Tensor]:
            return attention.c_attn(x_B1H).view(len(x_B1H), 1, 3, -1, width).permute(2, 0, 3, 1, 4).unbind(0)

        return heads

    layers = [
        Layer(
            block.ln_1, heads_of(block.attn), block.attn.c_proj, block.ln_2, block.mlp, block.attn.scaling, False
        )
        for block in trunk.h
    ]
    return Direct(embed, layers, trunk.ln_f, model.lm_head)


def _llama(model: Any) -> Direct:
    trunk = model.model

    def embed(ids_B1: Tensor, positions_B1: Tensor) -> tuple[Tensor, Rotation]:
        x_B1H = trunk.embed_tokens(ids_B1)
        return x_B1H, trunk.rotary_emb(x_B1H, position_ids=positions_B1)

    def heads_of(attention: Any) -> Callable[[Tensor, Rotation], Sequence[Tensor]]:
        parts = [
            (attention.q_proj, getattr(attention, "q_norm", None)),
            (attention.k_proj, getattr(attention, "k_norm", None)),
            (attention.v_proj, None),
        ]

        def heads(x_B1H: Tensor, rotation: Rotation) -> Sequence[Tensor]:
            assert rotation is not None
            shape = (len(x_B1H), 1, -1, attention.head_dim)
            split = [linear(x_B1H).view(shape) for linear, _ in parts]
            normed = [x if norm is None else norm(x) for x, (_, norm) in zip(split, parts, strict=True)]
            query, key, value = (x.transpose(1, 2) for x in normed)
            return _rotated(query, rotation), _rotated(key, rotation), value

        return heads

    layers = [
        Layer(
            block.input_layernorm,
            heads_of(block.self_attn),
            block.self_attn.o_proj,
            block.post_attention_layernorm,
            block.mlp,
            block.self_attn.scaling,
            block.self_attn.num_key_value_groups > 1,
        )
        for block in trunk.layers
    ]
    return Direct(embed, layers, trunk.norm, model.lm_head)


def _rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Su et al. 2021, halves instead of neighbours, as Llama's weights are laid out. [B, heads, 1, D]."""
    cos_B11D, sin_B11D = (part[:, None] for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return x * cos_B11D + torch.cat([-second, first], dim=-1) * sin_B11D


_KNOWN: dict[str, Callable[[Any], Direct]] = {
    "GPT2LMHeadModel": _gpt2,
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _llama,
    "Qwen2ForCausalLM": _llama,
    "Qwen3ForCausalLM": _llama,
}
"""By the name of their class in transformers."""

_found: weakref.WeakKeyDictionary[nn.Module, Direct | None] = weakref.WeakKeyDictionary()


def direct(model: Any) -> Direct | None:
    """The model taken apart; None where it is not known, keeps more of a text than keys and values, or computes
    something else than its layers one after another."""
    inner = unwrapped(model)
    if inner not in _found:
        remember(inner, _tried(inner))
    return _found[inner]


def remember(model: nn.Module, found: Direct | None) -> None:
    """Answers `direct` for models that cannot be tried out, such as those without data."""
    _found[model] = found


@torch.no_grad()
def _tried(inner: Any) -> Direct | None:
    """Padding, two tokens and one more, both ways."""
    build = _KNOWN.get(type(inner).__name__) if type(inner).__module__.startswith("transformers.") else None
    cache = growing_cache(inner.config)
    if build is None or linear_head(inner) is None or not _plain(cache):
        return None
    found, device = build(inner), inner.device
    vocabulary = inner.config.get_text_config().vocab_size
    ids = (torch.arange(6, device=device) % vocabulary).view(2, 3)
    mask = torch.tensor([[False, True, True], [True, True, True]], device=device)
    with torch.autocast(device.type, enabled=False):
        expected = inner(input_ids=ids, attention_mask=mask.long(), position_ids=positions(mask)).logits[:, -1]
        inner(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1].long(),
            position_ids=positions(mask[:, :-1]),
            past_key_values=cache,
            use_cache=True,
        )
        logits = found.step(ids[:, -1], mask.sum(-1) - 1, padding_bias(mask, expected.dtype), cache)
    return found if torch.allclose(logits, expected, rtol=1e-3, atol=1e-3) else None


def _plain(cache: Any) -> bool:
    return bool(cache.layers) and all(type(layer) is GrowingLayer for layer in cache.layers)
