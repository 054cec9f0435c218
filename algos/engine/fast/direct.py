"""Models whose layers are known, called layer by layer.

What transformers does around the layers (masks rebuilt, caches looked up, outputs wrapped) takes longer for one token
of a small model than its layers do. Here the same modules are called in the same order, adapters in them included.
Whether this gives what the model gives is tried on a short text in fp32, not assumed.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from algos.engine.fast.activated import is_watched
from algos.engine.fast.cache import GrowingLayer, growing_cache
from algos.engine.fast.head import linear_head
from algos.engine.fast.layers import Direct, DirectModel, Layer, Rotation, WithHead
from algos.engine.fast.parts import AsFunctions, AsModules, Parts, wide_function_of
from algos.engine.fast.stepping import LayerStepper
from algos.engine.inputs import depends_on_batch, full_precision, inputs_for, unwrapped
from algos.engine.memory import out_of_memory
from algos.engine.rollouts import Rollouts


def _gpt2(trunk: Any, parts: Parts) -> Direct:
    of_tokens, of_positions = parts.part(trunk, "wte"), parts.part(trunk, "wpe")

    def embed(ids_M: Tensor, positions_M: Tensor) -> tuple[Tensor, Rotation]:
        return of_tokens(ids_M) + of_positions(positions_M), None

    def heads_of(block: Any) -> Callable[[Tensor, Rotation], tuple[Tensor, Tensor, Tensor]]:
        width, project = block.attn.head_dim, parts.projected(block, "ln_1", block.attn, "c_attn")

        def heads(x_MH: Tensor, _: Rotation) -> tuple[Tensor, Tensor, Tensor]:
            (wide,) = project(x_MH)
            query, key, value = wide.view(x_MH.shape[0], 3, -1, width).unbind(1)
            return query, key, value

        return heads

    layers = [
        Layer(
            heads_of(block),
            parts.part(block.attn, "c_proj"),
            parts.fed(block, "ln_2"),
            block.attn.scaling,
        )
        for block in trunk.h
    ]
    passed_over = [trunk, *trunk.h, *(block.attn for block in trunk.h)]
    return Direct(embed, layers, parts.part(trunk, "ln_f"), passed_over)


def _llama(trunk: Any, parts: Parts) -> Direct:
    of_tokens = parts.part(trunk, "embed_tokens")

    def embed(ids_M: Tensor, positions_M: Tensor) -> tuple[Tensor, Rotation]:
        x_MH = of_tokens(ids_M)
        cos_1MD, sin_1MD = trunk.rotary_emb(x_MH[None], position_ids=positions_M[None])
        return x_MH, (cos_1MD[0], sin_1MD[0])

    def heads_of(block: Any) -> Callable[[Tensor, Rotation], tuple[Tensor, Tensor, Tensor]]:
        attention = block.self_attn
        project = parts.projected(block, "input_layernorm", attention, "q_proj", "k_proj", "v_proj")
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]

        def heads(x_MH: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
            assert rotation is not None
            query, key, value = (x.view(x_MH.shape[0], -1, attention.head_dim) for x in project(x_MH))
            query, key = (x if norm is None else norm(x) for x, norm in zip((query, key), norms, strict=True))
            return _rotated(query, rotation), _rotated(key, rotation), value

        return heads

    layers = [
        Layer(
            heads_of(block),
            parts.part(block.self_attn, "o_proj"),
            parts.fed(block, "post_attention_layernorm"),
            block.self_attn.scaling,
        )
        for block in trunk.layers
    ]
    passed_over = [trunk, *trunk.layers, *(block.self_attn for block in trunk.layers)]
    return Direct(embed, layers, parts.part(trunk, "norm"), passed_over)


def _mistral(trunk: Any, parts: Parts) -> Direct | None:
    """None with a sliding window, of which the cache may not tell: the model reads it from another setting."""
    return _llama(trunk, parts) if trunk.config.sliding_window is None else None


def _with_head(trunk_of: Callable[[Parts], Direct], model: Any) -> DirectModel:
    """The language model, by a weak reference: what is known of a model must not keep it in memory."""
    there: Callable[[], Any] = weakref.ref(model)

    def head() -> Any:
        return there().get_output_embeddings()

    return DirectModel(
        **vars(trunk_of(AsModules())),
        head=lambda x: head()(x),
        bare=lambda: WithHead(**vars(trunk_of(AsFunctions())), head=wide_function_of(head())),
    )


def _rotated(x_MhD: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding (Su et al. 2021) of the heads [M, heads, D]. It pairs the two halves of a head instead
    of neighbouring numbers, as Llama's weights are laid out."""
    cos_M1D, sin_M1D = (part[:, None] for part in rotation)
    first, second = x_MhD.chunk(2, dim=-1)
    return x_MhD * cos_M1D + torch.cat([-second, first], dim=-1) * sin_M1D


_KNOWN: dict[str, Callable[[Any, Parts], Any]] = {
    "GPT2Model": _gpt2,
    "LlamaModel": _llama,
    "MistralModel": _mistral,
    "Qwen2Model": _llama,
    "Qwen3Model": _llama,
}
"""By the name of the trunk's class in transformers."""

logger = logging.getLogger(__name__)

_found: weakref.WeakKeyDictionary[nn.Module, tuple[nn.Module, Direct | None]] = weakref.WeakKeyDictionary()
"""By the model that owns the trunk, weakly. The value holds the trunk, so keyed by it nothing would be freed."""


def direct(model: Any) -> DirectModel | None:
    """The language model, layer by layer. None where its layers are not known, where it keeps more of a text than keys
    and values, where it gives something else than its layers one after another, and where hooks watch it."""
    inner = unwrapped(model)
    found = None if is_watched(inner) else direct_trunk(inner, inner.base_model)
    return found if isinstance(found, DirectModel) else None


def direct_trunk(owner: nn.Module, trunk: Any) -> Direct | None:
    """The owner's trunk, layer by layer, else None as `direct`; a `DirectModel` if the owner is its language model."""
    if owner not in _found or _found[owner][0] is not trunk:
        declare_layers(owner, trunk, _tried(owner, trunk))
        if _found[owner][1] is None:
            logger.debug("%s is read through transformers' own layers.", type(trunk).__name__)
    found = _found[owner][1]
    return None if found is None or is_watched(*found.passed_over) else found


def declare_layers(owner: nn.Module, trunk: nn.Module, found: Direct | None) -> None:
    """Says what `direct_trunk` is to find. For models that cannot be tried, such as those without data."""
    _found[owner] = trunk, found


@torch.no_grad()
@full_precision()
def _tried(owner: Any, trunk: Any) -> Direct | None:
    """The layers, where they give what the trunk and the model give: two prompts, one of them padded, and two responses
    to each, read at once and token by token."""
    of_transformers = type(trunk).__module__.startswith("transformers.")
    build = _KNOWN.get(type(trunk).__name__) if of_transformers else None
    # Rotary factors that depend on the batch would mean to wait for the GPU, and a recorded step would not choose anew.
    if build is None or depends_on_batch(trunk.config):
        return None
    cache = growing_cache(trunk.config)
    is_model = getattr(owner, "base_model", None) is trunk
    if not _plain(cache) or (is_model and linear_head(owner) is None):
        return None
    rollouts = _a_batch(trunk.config.vocab_size, trunk.device)
    ids_BS, mask_BS = rollouts.input_ids_BS(), rollouts.attention_mask_BS()
    before = inputs_for(trunk, ids_BS[:, :-1], mask_BS[:, :-1])
    with torch.autocast(trunk.device.type, enabled=False):
        read = trunk(**before).last_hidden_state[:, -rollouts.T :]
        logits = owner(**inputs_for(owner, ids_BS, mask_BS)).logits[:, -1] if is_model else None
        try:
            trunk_of = partial(build, trunk)
            found = trunk_of(AsModules())
            if found is None or len(found.layers) != len(cache.layers):
                return None
            alike = [_alike(way(rollouts), read.flatten(0, 1)) for way in (found.of_groups, found.of_texts)]
            if logits is not None:
                found = _with_head(trunk_of, owner)
                batch = LayerStepper(
                    found, ids_BS[:, :-1], mask_BS[:, :-1], torch.arange(len(ids_BS), device=ids_BS.device)
                )
                batch.prefill()
                alike.append(_alike(batch.step(ids_BS[:, -1]), logits))
        except (AttributeError, TypeError, ValueError, IndexError, RuntimeError) as error:
            if out_of_memory(error):
                raise
            return None  # in another version of transformers the modules may differ
    return found if all(alike) else None


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
    """Whether they are equal but for rounding, relative to the largest number."""
    return bool(((found - expected).abs().max() <= 1e-4 * expected.abs().max().clamp(min=1e-3)).item())


def _plain(cache: Any) -> bool:
    return bool(cache.layers) and all(type(layer) is GrowingLayer for layer in cache.layers)
