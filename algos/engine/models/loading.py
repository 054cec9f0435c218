"""From a directory or a hub id to a model, a tokenizer and a device; every mistake is one line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from algos.engine.errors import UserError, one_line
from algos.engine.inputs import accepts, full_precision, inputs_for
from algos.engine.memory import out_of_memory
from algos.engine.models.hub import cached_where_unreachable, pinned
from algos.engine.models.weights import safetensors_only
from algos.engine.settings import LoRA, Precision


def load_causal_lm(path: str, trust_remote_code: bool) -> tuple[Any, PreTrainedTokenizerBase]:
    """A model in fp32, with its saved adapter where `path` holds one, and its tokenizer.

    Raises UserError where they cannot be loaded. Whether the model reads from left to right is asked where it becomes a
    policy (`require_causal`).
    """
    base = base_of(path)
    with cached_where_unreachable(base), safetensors_only(base), safetensors_only(path):
        model, tokenizer = _load(base, _tokenizer_of(path), trust_remote_code)
        if base != path:
            model = _with_saved_adapter(model, path)
    return model, tokenizer


def _with_saved_adapter(model: Any, path: str) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, path, is_trainable=True)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"cannot load the adapter {path!r}: {one_line(error)} Give one that fits its base."
        ) from error


def base_of(path: str) -> str:
    """What a saved LoRA adapter is an adapter of, in the revision that it names, or `path` itself. Raises UserError for one
    that does not say."""
    config = _adapter_config(path)
    if not config:
        return path
    base, revision = config["base_model_name_or_path"], config.get("revision")
    return f"{base}@{revision}" if revision and not os.path.exists(base) else base


def saved_adapter(path: str) -> LoRA | None:
    """The settings of the LoRA adapter that is saved there, None where there is none. Raises UserError for one that cannot be
    read."""
    config = _adapter_config(path)
    if not config:
        return None
    targets = config.get("target_modules")
    # peft saves names, or a pattern of them: patterns are taken to be of all layers.
    names = {str(name).split(".")[-1] for name in targets} if isinstance(targets, list) else {"all-linear"}
    return LoRA(rank=config.get("r", 8), alpha=config.get("lora_alpha", 8), targets=",".join(sorted(names)))


def _adapter_config(path: str) -> dict[str, Any]:
    """What is saved beside an adapter, empty where there is none."""
    file = Path(path, "adapter_config.json")
    if not os.path.isfile(file):
        return {}
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        base, kind = config.get("base_model_name_or_path"), config.get("peft_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"cannot read {file}: {one_line(error)} Save the adapter again.") from error
    if kind != "LORA" or not isinstance(base, str):
        raise UserError(
            f"{file} must describe a LoRA adapter and name its base; got {kind!a} of {base!a}. Save it with peft."
        )
    return config


def read_config(path: str, trust_remote_code: bool) -> PretrainedConfig:
    """The configuration of the model at `path`, or of the base of a saved adapter there, without its weights.

    Raises UserError where there is none to read.
    """
    base = base_of(path)
    with cached_where_unreachable(base), _readable(base):
        return AutoConfig.from_pretrained(**pinned(base), trust_remote_code=trust_remote_code)


def read_tokenizer(path: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer alone, which `load_causal_lm` gives too. Raises UserError where there is none to read."""
    source = _tokenizer_of(path)
    with cached_where_unreachable(source), _readable(source):
        return tokenizer_in(source, trust_remote_code)


def tokenizer_in(source: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer saved there. Raises UserError for one that transformers made up from the model's configuration
    because there is none: it knows special tokens, and no text."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        **pinned(source), trust_remote_code=trust_remote_code
    )
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f"no tokenizer in {source!r}. Save it there with tokenizer.save_pretrained.")
    return tokenizer


def _tokenizer_of(path: str) -> str:
    """Where the tokenizer lies: a saved adapter may come without one."""
    return path if os.path.isfile(Path(path, "tokenizer_config.json")) else base_of(path)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Raises UserError for what libraries raise inside the block where there is no model to read."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        remedy = "Give a directory with safetensors weights or a hub id."
        if "backend tokenizer" in str(error):
            remedy = "Save its tokenizer there, too, with tokenizer.save_pretrained."
        elif "trust_remote_code" in str(error):
            remedy = "Pass --trust-remote-code if you trust whoever wrote it to run on this machine."
        raise UserError(
            f"cannot load a causal language model from {name!r}: {one_line(error)} {remedy}"
        ) from error


def _load(path: str, tokenizer_path: str, trust_remote_code: bool) -> tuple[Any, PreTrainedTokenizerBase]:
    with _readable(path):
        config = AutoConfig.from_pretrained(**pinned(path), trust_remote_code=trust_remote_code)
        # fp32 master weights: steps of 1e-6 vanish in bf16, which autocast uses only for the products.
        model = AutoModelForCausalLM.from_pretrained(
            **pinned(path),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
        tokenizer = tokenizer_in(tokenizer_path, trust_remote_code)
    tokenizer.padding_side = "left"
    return model, tokenizer


@torch.no_grad()
@full_precision()
def require_causal(model: Any, name: str) -> None:
    """Raises UserError where a token's prediction depends on padding or on what follows it.

    Bidirectional models and recurrent layers that do not see the mask would train on other
    probabilities than they sample from. A short text alone against the same text padded and continued, and against
    what the model makes of it by itself: RoBERTa's positions begin behind the padding's, not at the 0 that it is given.
    And where the attention chosen for it does not compute in the precision of its weights.
    """
    if not accepts(model, "attention_mask"):
        raise UserError(
            f"{name!r} takes no attention mask, so padding would be read as text. Use another model."
        )
    config = model.config.get_text_config()
    # Words, not the padding's own id, whose embedding is zero in some models and which moves no position in others.
    padding = getattr(config, "pad_token_id", None)
    words = (i % config.vocab_size for i in range(1, 8) if i != padding)
    *text, one, other = islice(words, 6)
    rows = torch.tensor([[one, other, *text], [*text, one, other]], device=model.device)
    mask = torch.ones_like(rows, dtype=torch.bool)
    mask[0, :2] = False
    alone = torch.tensor([text], device=model.device)
    with _attention_in(model, name):
        together = model(**inputs_for(model, rows, mask)).logits.float().log_softmax(-1)
    inputs = inputs_for(model, alone, torch.ones_like(alone, dtype=torch.bool))
    expected = model(**inputs).logits.float().log_softmax(-1)
    cases = {"padding": together[:1, 2:], "the words that follow": together[1:, :4]}
    if inputs.pop("position_ids", None) is not None:
        cases["whether its positions begin at 0"] = model(**inputs).logits.float().log_softmax(-1)
    for cause, found in cases.items():
        # Rounding moves them by 1e-5 or so, anything else by far more.
        if not torch.allclose(found, expected, atol=1e-2, rtol=1e-3):
            raise UserError(
                f"{name!r} predicts a word otherwise depending on {cause}: it cannot be trained here. "
                "Use a causal language model whose layers all respect the attention mask and whose positions begin at 0."
            )


@contextmanager
def _attention_in(model: Any, name: str) -> Iterator[None]:
    """Raises UserError where an attention that somebody chose refuses the model's numbers, as FlashAttention does fp32,
    in which weights are kept."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        chosen = getattr(model.config, "_attn_implementation", None)
        if out_of_memory(error) or chosen in (None, "sdpa", "eager"):
            raise
        weights = str(next(model.parameters()).dtype).removeprefix("torch.")
        raise UserError(
            f"{name!r} cannot be read with attn_implementation={chosen!r} and weights in {weights}: {one_line(error)} "
            'Load it with attn_implementation="sdpa", or call model.set_attn_implementation("sdpa").'
        ) from error


def pick_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises UserError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        if chosen.type == "cuda" and (
            not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()
        ):
            raise UserError(
                f"no such device: {device}; this machine has {torch.cuda.device_count()} CUDA devices. Use --device cpu or auto."
            )
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"no such device: {device} ({str(error).splitlines()[0]}). Use --device cpu or auto."
        ) from None
    return chosen


def compute_dtype(dtype: Precision, device: torch.device) -> torch.dtype:
    """What matrix products are computed in: `auto` is bf16 on a GPU that has it, else fp32."""
    if dtype not in get_args(Precision):
        raise UserError(f"dtype must be auto, fp32 or bf16; got {dtype!r}.")
    if dtype == "auto":
        # Older GPUs emulate bf16, slower than fp32.
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
