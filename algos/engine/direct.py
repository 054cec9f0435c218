"""Texts through the layers themselves, for the models whose layers are known.

What transformers does around the layers (masks made anew, caches looked up, outputs wrapped) takes longer for one token
of a small model than its layers do; and tokens of prompts and of responses, which only attention has to tell apart, are
multiplied together here. The same modules are called in the same order, adapters in them included; attention's few
lines alone are written again. Whether that is what a model computes is tried out, not assumed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algos.engine.cache import GrowingLayer, growing_cache
from algos.engine.head import linear_head, unwrapped
from algos.engine.inputs import inputs_for, positions
from algos.engine.memory import out_of_memory
from algos.engine.rollouts import Rollouts

Module = Callable[[Tensor], Tensor]
Rotation = tuple[Tensor, Tensor] | None
"""Cosines and sines [N, D] of the tokens' positions."""
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values [N, heads, D] of N tokens → what they read, [N, heads·D]."""


@dataclass(frozen=True)
class Layer:
    """x + out(attention(heads(before(x)))), then x + mlp(between(x)): what GPT-2 and Llama have in common."""

    before: Module
    heads: Callable[[Tensor, Rotation], tuple[Tensor, Tensor, Tensor]]
    """[N, H] → queries [N, heads, D], keys and values [N, heads of keys and values, D]."""
    out: Module
    between: Module
    mlp: Module
    scale: float

    def __call__(self, x_NH: Tensor, rotation: Rotation, attention: Attention) -> Tensor:
        x_NH = x_NH + self.out(attention(*self.heads(self.before(x_NH), rotation)))
        return x_NH + self.mlp(self.between(x_NH))

    def read(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Queries [B, heads, N, D], keys and values [B, heads or a divisor of them, S, D] → [B·N, heads·D]."""
        sharing, on_cpu = query.shape[1] // keys.shape[1], query.device.type == "cpu"
        if sharing > 1 and not on_cpu:  # with a bias only torch's slowest kernel knows of shared keys there
            keys, values = (x.repeat_interleave(sharing, dim=1) for x in (keys, values))
        found = F.scaled_dot_product_attention(
            query, keys, values, bias.to(query.dtype), scale=self.scale, enable_gqa=sharing > 1 and on_cpu
        )
        return found.transpose(1, 2).flatten(2).flatten(0, 1)


@dataclass(frozen=True)
class Direct:
    """A model as embeddings, layers, a last norm and a head."""

    embed: Callable[[Tensor, Tensor], tuple[Tensor, Rotation]]
    """Ids and positions [N] → [N, H]"""
    layers: Sequence[Layer]
    norm: Module
    head: Module

    def step(self, token_B: Tensor, position_B: Tensor, bias_B11S: Tensor, cache: Any) -> Tensor:
        """Logits [B, V] behind one more token, which also goes into the cache. The bias is 0 where a token may be
        read and −inf on padding."""
        x_BH, rotation = self.embed(token_B, position_B)
        for layer, states in zip(self.layers, cache.layers, strict=True):
            x_BH = layer(x_BH, rotation, partial(_after_cached, layer, states, bias_B11S))
        return self.head(self.norm(x_BH))

    def response_hidden(self, rollouts: Rollouts) -> Tensor:
        """The last hidden states from which each response token is predicted, [P, G, T, H]: prompts, read once a
        group, and responses go through the layers together and meet in attention alone."""
        P, G, L = rollouts.P, rollouts.G, rollouts.prompt_ids_PL.shape[1]
        ids_BN = rollouts.response_ids_PGT[..., :-1].flatten(0, 1)
        at_PL, at_BS = positions(rollouts.prompt_mask_PL), positions(rollouts.attention_mask_BS()[:, :-1])
        x_NH, rotation = self.embed(
            torch.cat([rollouts.prompt_ids_PL.flatten(), ids_BN.flatten()]),
            torch.cat([at_PL.flatten(), at_BS[:, L:].flatten()]),
        )
        biases = _biases(rollouts, x_NH.dtype)
        for layer in self.layers:
            x_NH = layer(x_NH, rotation, partial(_in_groups, layer, rollouts, biases))
        x_PLH, x_BNH = (
            part.unflatten(0, (rows, -1)) for part, rows in zip(_apart(x_NH, P * L), (P, P * G), strict=True)
        )
        read_BTH = torch.cat([x_PLH[:, -1:].repeat_interleave(G, dim=0), x_BNH], dim=1)
        return rollouts.per_group(self.norm(read_BTH))


def padding_bias(mask_BS: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, 1, S] to add to attention's logits: 0 on tokens, −inf on padding."""
    return _bias(mask_BS[:, None, None], dtype)


def _bias(readable: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(readable.shape, dtype=dtype, device=readable.device).masked_fill(~readable, -torch.inf)


def _biases(rollouts: Rollouts, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What prompts may read of themselves [P, 1, L, L], and responses of their prompts and themselves
    [B, 1, N, L + N]."""
    G, L, N = rollouts.G, rollouts.prompt_ids_PL.shape[1], rollouts.T - 1
    mask_PL, device = rollouts.prompt_mask_PL, rollouts.mask_PGT.device
    before_LL = torch.ones(L, L, dtype=torch.bool, device=device).tril()
    # Padding reads itself: with nothing to read its softmax would not be finite.
    itself_LL = torch.eye(L, dtype=torch.bool, device=device)
    prompts = (before_LL & mask_PL[:, None, :]) | itself_LL
    before_NN = torch.ones(N, N, dtype=torch.bool, device=device).tril()
    asked = mask_PL.repeat_interleave(G, dim=0)[:, None, :].expand(-1, N, -1)
    responses = torch.cat([asked, before_NN.expand(len(asked), -1, -1)], dim=-1)
    return _bias(prompts[:, None], dtype), _bias(responses[:, None], dtype)


def _after_cached(
    layer: Layer, cache: GrowingLayer, bias_B11S: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """One token a row, behind those in the cache."""
    keys, values = cache.update(key[:, :, None], value[:, :, None])
    return layer.read(query[:, :, None], keys, values, bias_B11S)


def _in_groups(layer: Layer, rollouts: Rollouts, biases: tuple[Tensor, Tensor], *of_tokens: Tensor) -> Tensor:
    """The tokens of all prompts, then those of all responses. Attention keeps copies of what it reads, so that nothing
    keeps the wider tensors that they are parts of."""
    P, G, L = rollouts.P, rollouts.G, rollouts.prompt_ids_PL.shape[1]
    asked, answered = zip(*(_apart(x, P * L) for x in of_tokens), strict=True)
    query, *before = (x.unflatten(0, (P, L)).transpose(1, 2).contiguous() for x in asked)
    own, *after = (x.unflatten(0, (P * G, -1)).transpose(1, 2) for x in answered)
    both = [torch.cat([x.repeat_interleave(G, dim=0), y], dim=2) for x, y in zip(before, after, strict=True)]
    (keys, values), (all_keys, all_values) = before, both
    return torch.cat(
        [
            layer.read(query, keys, values, biases[0]),
            layer.read(own.contiguous(), all_keys, all_values, biases[1]),
        ]
    )


def _apart(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The first rows and the others; unlike slices, they send back one gradient, not two halves full of zeros."""
    ahead, behind = x.split([first, len(x) - first])
    return ahead, behind


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
