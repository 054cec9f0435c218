"""Models whose layers are known, taken apart.

What transformers does around the layers (masks made anew, caches looked up, outputs wrapped) takes longer for one token
of a small model than its layers do. Here the same modules are called in the same order, adapters in them included.
Whether that is what a model computes is tried out, not assumed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from algos.engine.cache import GrowingLayer, growing_cache
from algos.engine.head import linear_head, unwrapped
from algos.engine.inputs import inputs_for
from algos.engine.layers import Direct, Layer, Module, Rotation, padding_bias
from algos.engine.memory import out_of_memory
from algos.engine.rollouts import Rollouts


def _gpt2(model: Any) -> Direct:
    trunk, head = model.transformer, _head_of(model)

    def embed(ids_N: Tensor, positions_N: Tensor) -> tuple[Tensor, Rotation]:
        return trunk.wte(ids_N) + trunk.wpe(positions_N), None

    def heads_of(attention: Any) -> Callable[[Tensor, Rotation], tuple[Tensor, Tensor, Tensor]]:
        width = attention.head_dim

        def heads(x_NH: Tensor, _: Rotation) -> tuple[Tensor, Tensor, Tensor]:
            query, key, value = attention.c_attn(x_NH).view(len(x_NH), 3, -1, width).unbind(1)
            return query, key, value

        return heads

    layers = [
        Layer(
            block.ln_1,
            heads_of(block.attn),
            partial(_call, block.attn, "c_proj"),
            block.ln_2,
            block.mlp,
            block.attn.scaling,
        )
        for block in trunk.h
    ]
    return Direct(embed, layers, trunk.ln_f, head)


def _llama(model: Any) -> Direct:
    trunk, head = model.model, _head_of(model)

    def embed(ids_N: Tensor, positions_N: Tensor) -> tuple[Tensor, Rotation]:
        x_NH = trunk.embed_tokens(ids_N)
        cos_1ND, sin_1ND = trunk.rotary_emb(x_NH[None], position_ids=positions_N[None])
        return x_NH, (cos_1ND[0], sin_1ND[0])

    def heads_of(attention: Any) -> Callable[[Tensor, Rotation], tuple[Tensor, Tensor, Tensor]]:
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]

        def heads(x_NH: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
            assert rotation is not None
            shape = (len(x_NH), -1, attention.head_dim)
            query, key, value = (
                linear(x_NH).view(shape) for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            query, key = (x if norm is None else norm(x) for x, norm in zip((query, key), norms, strict=True))
            return _rotated(query, rotation), _rotated(key, rotation), value

        return heads

    layers = [
        Layer(
            block.input_layernorm,
            heads_of(block.self_attn),
            partial(_call, block.self_attn, "o_proj"),
            block.post_attention_layernorm,
            block.mlp,
            block.self_attn.scaling,
        )
        for block in trunk.layers
    ]
    return Direct(embed, layers, trunk.norm, head)


def _mistral(model: Any) -> Direct | None:
    """None with a window, which its cache may not tell of: the model reads another setting than the cache does."""
    return _llama(model) if model.config.sliding_window is None else None


def _call(owner: Any, name: str, x: Tensor) -> Tensor:
    """By the owner's attribute as it is then: an adapter may have taken its place."""
    y: Tensor = getattr(owner, name)(x)
    return y


def _head_of(model: Any) -> Module:
    """Likewise; without holding the model, with which what is known of it is to go."""
    there = weakref.ref(model)
    return lambda x: _call(there(), "lm_head", x)


def _rotated(x_NAD: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Su et al. 2021, halves instead of neighbours, as Llama's weights are laid out."""
    cos_N1D, sin_N1D = (part[:, None] for part in rotation)
    first, second = x_NAD.chunk(2, dim=-1)
    return x_NAD * cos_N1D + torch.cat([-second, first], dim=-1) * sin_N1D


_KNOWN: dict[str, Callable[[Any], Direct | None]] = {
    "GPT2LMHeadModel": _gpt2,
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
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
    """Two padded prompts and two responses to each, both ways."""
    build = _KNOWN.get(type(inner).__name__) if type(inner).__module__.startswith("transformers.") else None
    if build is None or linear_head(inner) is None:
        return None
    rollouts = _a_batch(inner.config.vocab_size, inner.device)
    ids_BS, mask_BS = rollouts.input_ids_BS(), rollouts.attention_mask_BS()
    cache = growing_cache(inner.config)
    with torch.autocast(inner.device.type, enabled=False):
        whole = inner.base_model(**inputs_for(inner, ids_BS[:, :-1], mask_BS[:, :-1])).last_hidden_state
        logits = inner(**inputs_for(inner, ids_BS, mask_BS)).logits[:, -1]
        inner(**inputs_for(inner, ids_BS[:, :-1], mask_BS[:, :-1], cache))
        try:
            found = build(inner)
            if found is None or not _plain(cache) or len(found.layers) != len(cache.layers):
                return None
            hidden = found.response_hidden(rollouts).flatten(0, 1)
            bias = padding_bias(mask_BS, logits.dtype)
            stepped = found.step(ids_BS[:, -1], mask_BS.sum(-1) - 1, bias, cache)
        except (AttributeError, TypeError, ValueError, IndexError, RuntimeError) as error:
            if out_of_memory(error):
                raise
            return None  # another version of transformers may be built otherwise
    alike = _alike(hidden, whole[:, -rollouts.T :]) and _alike(stepped, logits)
    return found if alike else None


def _a_batch(vocabulary: int, device: torch.device) -> Rollouts:
    """P = 2, one prompt shorter than the other; G = 2, T = 4."""
    ids = torch.arange(1, 23, device=device) % vocabulary
    prompt_ids_PL, response_ids_PGT = ids[:6].view(2, 3), ids[6:].view(2, 2, 4)
    return Rollouts(
        prompt_ids_PL=prompt_ids_PL,
        prompt_mask_PL=torch.tensor([[False, True, True], [True, True, True]], device=device),
        response_ids_PGT=response_ids_PGT,
        mask_PGT=torch.ones_like(response_ids_PGT, dtype=torch.bool),
        ended_PG=torch.zeros(2, 2, dtype=torch.bool, device=device),
    )


def _alike(found: Tensor, expected: Tensor) -> bool:
    """But for rounding, which goes with what numbers there are."""
    return bool(((found - expected).abs().max() <= 1e-4 * expected.abs().max().clamp(min=1e-3)).item())


def _plain(cache: Any) -> bool:
    return bool(cache.layers) and all(type(layer) is GrowingLayer for layer in cache.layers)
