"""`Policy`: a Hugging Face causal LM that learns, and the frozen reference it started as."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from algos.engine.errors import UserError, one_line
from algos.engine.fast.kernels import patch_kernels
from algos.engine.inputs import embedding_rows, max_positions, unwrapped
from algos.engine.memory import Portions, out_of_memory_as
from algos.engine.models.frozen import Frozen
from algos.engine.models.hub import commit
from algos.engine.models.loading import compute_dtype, load_causal_lm, pick_device, require_causal
from algos.engine.recompute import recomputed, require_recomputable
from algos.engine.settings import LoRA, Precision
from algos.engine.text.template import with_options
from algos.engine.text.tokens import eos_ids, pad_id


class Policy:
    """A causal LM with its tokenizer, its frozen reference and the precision it computes in.

    Dropout is off in every forward: with it, policy and reference would differ before any update. Weights and buffers
    of less than 32 bits are made fp32, in place, as steps of 1e-6 vanish in bf16; fp64 stays, and so does a quantised
    model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dtype: Precision = "auto",
        source: str = "",
        gradient_checkpointing: bool = False,
        reference: bool = True,
    ) -> None:
        _require_known(model)
        if gradient_checkpointing:
            require_recomputable(model)
        _widen(model)
        patch_kernels(model)
        self.model: Any = model.eval()
        self.tokenizer = tokenizer
        self.source = source
        self.dtype = compute_dtype(dtype, self.device)
        self.gradient_checkpointing = gradient_checkpointing
        require_causal(self.model, source or type(self.inner).__name__)
        self.portions = Portions()
        self.adapter_is_reference = _fresh_adapter(model)
        self._reference = Frozen(model) if reference and not self.adapter_is_reference else None

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        lora: LoRA | bool | None = None,
        dtype: Precision = "auto",
        device: str = "auto",
        gradient_checkpointing: bool = False,
        template_options: Mapping[str, bool | int | str] | None = None,
        trust_remote_code: bool = False,
        reference: bool = True,
    ) -> Policy:
        """From a directory or a hub id (`owner/name` or `owner/name@revision`), a model or a saved adapter; weights as safetensors only.

        The reference is the policy as loaded: with a fresh adapter the model without it, else a frozen copy, or
        `reference=False` none, for a policy that is neither trained nor held against it.
        `template_options` fix variables of the chat template, such as `enable_thinking`. Raises UserError
        where the model or the device is not there, where they do not fit each other, and where the model's
        layers do not respect the attention mask.
        """
        where = pick_device(device)
        # Absolute: a saved adapter names its base by this path.
        source = str(Path(path).resolve()) if os.path.isdir(path) else str(path)
        model, tokenizer = load_causal_lm(source, trust_remote_code)
        if template_options:
            tokenizer.chat_template = with_options(tokenizer, template_options)
        if lora and hasattr(model, "peft_config"):
            raise UserError(
                f"{source!r} is an adapter already, which training goes on with as it is. Leave --lora out."
            )
        if lora:
            model = with_adapter(model, LoRA() if lora is True else lora, commit(source))
        no_room = (
            f"there is not enough memory for {source!r} and its frozen reference. Train adapters with --lora: they need "
            "no copy."
        )
        with out_of_memory_as(UserError, no_room):
            return cls(model.to(where), tokenizer, dtype, source, gradient_checkpointing, reference)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def inner(self) -> PreTrainedModel:
        """The transformers model, whether or not adapters are wrapped around it."""
        inner: PreTrainedModel = unwrapped(self.model)
        return inner

    @property
    def eos_ids(self) -> list[int]:
        return eos_ids(self.inner, self.tokenizer)

    @property
    def pad_id(self) -> int:
        return pad_id(self.tokenizer, embedding_rows(self.model))

    @property
    def max_positions(self) -> int | None:
        """The longest sequence the model has positions for; None where it has no such limit."""
        return max_positions(self.inner.config)

    def require_embedded(self, ids: Sequence[int]) -> None:
        """Raises UserError for a token that the model has no embedding of."""
        highest, rows = max(ids, default=0), embedding_rows(self.model)
        if highest >= rows:
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise UserError(
                f"a text has the token {token!a} with id {highest}, and the model's embedding has {rows} rows. Use the "
                "model's own tokenizer, or resize the embedding (resize_token_embeddings) and save the model."
            )

    @cached_property
    def size(self) -> int:
        """Parameters, embeddings included, adapters not."""
        return sum(p.numel() for name, p in self.model.named_parameters() if "lora_" not in name)

    @property
    def backward_factor(self) -> int:
        """Nominal FLOPs a parameter and token of forward and backward: 6, or 4 with frozen weights; a second
        forward with gradient checkpointing."""
        frozen = any("lora_" in name for name in self.trainable())
        return (4 if frozen else 6) + self.recomputation

    @property
    def recomputation(self) -> int:
        """Nominal FLOPs a parameter and token of what gradient checkpointing computes again."""
        return 2 if self.gradient_checkpointing else 0

    def for_backward(self, *others: nn.Module | None) -> AbstractContextManager[None]:
        """The block in which the model, and others beside it, go forward and backward."""
        return recomputed(self.model, *others) if self.gradient_checkpointing else nullcontext()

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """The block in which the model as it was loaded can be used. Raises UserError where there is no reference."""
        if self._reference is not None:
            with self._reference.loaded() as model:
                yield model
        elif self.adapter_is_reference:
            with _as_trained(self.model), self.model.disable_adapter():
                yield self.model
        else:
            raise UserError("this policy has no reference. Load it without reference=False.")

    def reference_at_hand(self) -> AbstractContextManager[object]:
        """The block in which `reference` is entered again and again: the weights of one on disk are read once for it. What
        the policy itself computes in it is the policy's, adapters included."""
        return nullcontext() if self._reference is None else self._reference.loaded()

    def reference_digest(self) -> str:
        """A hash of the reference's weights, by name: those of an adapter only where the reference has one."""
        hashed = hashlib.blake2b(digest_size=16)
        with self.reference() as model:
            for name, tensor in sorted(model.state_dict().items()):
                if not (self.adapter_is_reference and "lora_" in name):
                    hashed.update(name.encode())
                    hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return hashed.hexdigest()

    def config_digest(self) -> str:
        """A hash of what the model computes with its weights: its configuration, less where it came from."""
        config = self.inner.config.to_dict()
        plain = {k: v for k, v in config.items() if k not in ("_name_or_path", "transformers_version")}
        text = json.dumps(plain, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def save(self, directory: str | Path) -> None:
        """Writes a directory that AutoModelForCausalLM (or PeftModel, for adapters) loads again."""
        self.model.save_pretrained(str(directory))
        self.tokenizer.save_pretrained(str(directory))


def _require_known(model: Any) -> None:
    """Raises UserError for what is no model of transformers, bare or in adapters of a kind that is trained."""
    inner = unwrapped(model)
    if not isinstance(inner, PreTrainedModel):
        raise UserError(
            f"a policy is made of a model of transformers, or of one in peft's adapters; got {type(inner).__name__}. Pass "
            "the model that it wraps (one that is compiled in place, by model.compile(), may stay so)."
        )
    for config in (getattr(model, "peft_config", None) or {}).values():
        if getattr(config, "is_prompt_learning", False):
            raise UserError(
                f"adapters of tokens before the prompt ({type(config).__name__}) are not trained here. Use LoRA."
            )


def with_adapter(model: PreTrainedModel, lora: LoRA, revision: str | None = None) -> Any:
    """A fresh adapter around the model, which saves the hub's `revision` of it beside its name. Raises UserError where
    its targets are not there."""
    from peft import LoraConfig, get_peft_model

    if not isinstance(lora, LoRA):
        raise UserError(f"lora takes LoRA(...) or True; got {type(lora).__name__}.")
    targets: str | list[str] = lora.targets if lora.targets == "all-linear" else lora.targets.split(",")
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the adapter's random half is part of the model, not of a run's seed
        try:
            return get_peft_model(model, config, revision=revision)
        except ValueError as error:
            raise UserError(
                f"cannot put adapters on {lora.targets!r}: {one_line(error)} Set --lora-settings.targets."
            ) from error


def _widen(model: nn.Module) -> None:
    """Makes parameters and buffers of less than 32 bits fp32, in place; a quantised model stays as it is."""
    # Not `model.float()`, which would narrow fp64. Weights that are integers mean what their layers make of them.
    whole = all(p.is_floating_point() for p in model.parameters())
    if not whole or getattr(unwrapped(model), "is_quantized", False):
        return
    for x in (*model.parameters(), *model.buffers()):
        if x.is_floating_point() and x.dtype.itemsize < 4:
            x.data = x.data.float()


@contextmanager
def _as_trained(model: nn.Module) -> Iterator[None]:
    """After the block every weight is trained or frozen as before it: peft, switching an adapter on, trains all of it."""
    trained = [(p, p.requires_grad) for p in model.parameters()]
    try:
        yield
    finally:
        for p, was in trained:
            p.requires_grad_(was)


def _fresh_adapter(model: Any) -> bool:
    """Whether switching the adapter off gives the model as loaded: true only if it starts at zero, and if nothing is
    trained beside it (biases, whole modules, single tokens), which would move what lies below it."""
    if not hasattr(model, "disable_adapter"):
        return False
    ups = [p for name, p in model.named_parameters() if "lora_B" in name]
    others = [name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name]
    return bool(ups) and not others and all(not p.any() for p in ups)
