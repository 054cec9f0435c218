"""`Policy`: a Hugging Face causal LM that learns, and the frozen reference it started as."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from algos.engine.algorithm import require
from algos.engine.errors import UserError, one_line
from algos.engine.text import eos_ids, pad_id

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (Hu et al. 2021) through peft; the reference is then the adapter switched off."""

    rank: int = 16
    alpha: int = 32
    targets: str = "all-linear"
    """Module names as peft takes them, comma-separated, or `all-linear`."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, "lora rank", "at least 1", self.rank)
        require(self.alpha > 0, "lora alpha", "above 0", self.alpha)


class Policy:
    """A causal LM with its tokenizer, its frozen reference and the precision it computes in.

    Dropout is off in every forward: with it, policy and reference would differ before any update.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dtype: Precision = "auto",
        source: str = "",
    ) -> None:
        self.model: Any = model.eval()
        self.tokenizer = tokenizer
        self.source = source
        self.dtype = _compute_dtype(dtype, self.device)
        self.adapter_is_reference = _fresh_adapter(model)
        # `requires_grad` stays as it is on the copy, which only ever runs under no_grad: torch chooses other
        # kernels for weights without it, and policy and reference would differ in the last digits.
        self._reference = None if self.adapter_is_reference else copy.deepcopy(model).eval()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        lora: LoRA | bool | None = None,
        dtype: Precision = "auto",
        device: str = "auto",
        trust_remote_code: bool = False,
    ) -> Policy:
        """From a directory or a hub id, a model or a saved adapter; weights as safetensors only.

        The reference is the policy as loaded. Raises UserError where the model or the device is not there.
        """
        where = pick_device(device)
        source = str(path)
        adapter = Path(source, "adapter_config.json")
        base = (
            json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
            if adapter.is_file()
            else source
        )
        model, tokenizer = _load_causal_lm(
            base, source if Path(source, "tokenizer_config.json").is_file() else base, trust_remote_code
        )
        if adapter.is_file():
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, source, is_trainable=True)
        elif lora:
            model = _with_adapter(model, LoRA() if lora is True else lora)
        return cls(model.to(where), tokenizer, dtype, source)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def inner(self) -> PreTrainedModel:
        """The transformers model, whether or not adapters are wrapped around it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def eos_ids(self) -> list[int]:
        return eos_ids(self.inner, self.tokenizer)

    @property
    def pad_id(self) -> int:
        return pad_id(self.tokenizer)

    @property
    def max_positions(self) -> int | None:
        """The longest sequence the model has positions for; None where it has no such limit."""
        config = self.inner.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)

    @property
    def vocabulary(self) -> int:
        return int(self.inner.config.get_text_config().vocab_size)

    @property
    def size(self) -> int:
        """Parameters, embeddings included, adapters not."""
        return sum(p.numel() for name, p in self.model.named_parameters() if "lora_" not in name)

    @property
    def backward_factor(self) -> int:
        """Nominal FLOPs a parameter and token of forward and backward: 6, or 4 with frozen weights."""
        return 4 if any("lora_" in name for name in self.trainable()) else 6

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """The model as it was loaded."""
        if self._reference is not None:
            yield self._reference
        else:
            with self.model.disable_adapter():
                yield self.model

    def reference_digest(self) -> str:
        """A hash of the reference's weights, by name."""
        hashed = hashlib.blake2b(digest_size=16)
        with self.reference() as model:
            for name, tensor in sorted(model.state_dict().items()):
                if "lora_" not in name:
                    hashed.update(name.encode())
                    hashed.update(
                        tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
                    )
        return hashed.hexdigest()

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def save(self, directory: str | Path) -> None:
        """Writes a directory that AutoModelForCausalLM (or PeftModel, for adapters) loads again."""
        self.model.save_pretrained(str(directory))
        self.tokenizer.save_pretrained(str(directory))


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


def _compute_dtype(dtype: Precision, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]


def _load_causal_lm(
    path: str, tokenizer_path: str, trust_remote_code: bool
) -> tuple[Any, PreTrainedTokenizerBase]:
    if not Path(path).exists() and (path.startswith(("/", ".", "~")) or path.count("/") > 1):
        raise UserError(
            f"there is no model directory {path!r}. Check the path; a model on the hub is named owner/name."
        )
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        # fp32 master weights: steps of 1e-6 vanish in bf16, which autocast uses only for the products.
        model = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = one_line(error)
        raise UserError(
            f"cannot load a causal language model from {path!r}: {reason} Give a directory with safetensors weights or a hub id."
        ) from error
    tokenizer.padding_side = "left"
    return model, tokenizer


def _with_adapter(model: PreTrainedModel, lora: LoRA) -> Any:
    from peft import LoraConfig, get_peft_model

    targets: str | list[str] = lora.targets if lora.targets == "all-linear" else lora.targets.split(",")
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the adapter's random half is part of the model, not of a run's seed
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise UserError(
                f"cannot put adapters on {lora.targets!r}: {one_line(error)} Set --lora.targets."
            ) from error


def _fresh_adapter(model: Any) -> bool:
    """Whether switching the adapter off gives the model as loaded: true only if it starts at zero."""
    if not hasattr(model, "disable_adapter"):
        return False
    ups = [p for name, p in model.named_parameters() if "lora_B" in name]
    return bool(ups) and all(not p.any() for p in ups)
