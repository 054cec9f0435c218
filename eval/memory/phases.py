"""What an iteration's phases hold in memory: the engine's own code, run on tensors without data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from algos import LoRA, Policy
from algos.engine.algorithm import Algorithm
from algos.engine.critic import Critic
from algos.engine.decoding import inverse_cdf, stepper
from algos.engine.fast.direct import declare_layers
from algos.engine.fast.head import declare_linear_head, linear_head
from algos.engine.fast.kernels import patch_kernels
from algos.engine.fast.products import packed_bytes
from algos.engine.forward import forward, groups_per_forward, upcast
from algos.engine.inputs import precision
from algos.engine.recompute import recomputed
from algos.engine.rollouts import Rollouts
from algos.engine.sampling import MAX_ROWS
from eval.memory.standins import FullRollouts, Peak, has_linear_head, with_trained
from eval.metrics import of_tokens

if TYPE_CHECKING:
    from eval.memory.footprint import Load


@dataclass(frozen=True)
class _Read:
    """What sampling and evaluation read of a policy, without its copies. Adapters add little where no
    gradient is kept, and are left out."""

    model: Any
    dtype: torch.dtype
    reference_model: Any = None
    pad_id: int = 0

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def inner(self) -> Any:
        return self.model

    @contextmanager
    def reference(self) -> Iterator[Any]:
        yield self.reference_model


class Phases:
    """One iteration's phases, each as large as the engine makes it."""

    def __init__(self, algorithm: Algorithm, load: Load, weights: torch.dtype) -> None:
        self.algorithm, self.load, self.weights = algorithm, load, weights
        needs, sampling = algorithm.needs, load.sampling
        recorded = needs.source == "pairs"
        self.G = 2 if recorded else sampling.group_size
        self.P = needs.pairs_per_step if recorded else sampling.prompts_per_iteration
        drawn = 0 if recorded else self.P * self.G
        self.rows = 1 if load.on_gpu else min(MAX_ROWS, max(drawn, load.evaluated))

    def bytes(self) -> dict[str, int]:
        return {
            "training": self._training(),
            "scoring": self._scoring(),
            "sampling": self._sampling(),
            "evaluation": self._evaluation(),
        }

    @cached_property
    def read_only(self) -> Any:
        """For what leaves the model as it is: made once, as that takes longer than what is done with it."""
        model = self._made()
        declare_linear_head(model, has_linear_head(model))
        return model

    def model(self) -> Any:
        """One to be changed."""
        model = self._made()
        declare_linear_head(model, linear_head(self.read_only) is not None)
        return model

    def _made(self) -> Any:
        from transformers import AutoModelForCausalLM

        config = self.load.config.get_text_config()
        model = AutoModelForCausalLM.from_config(config, dtype=self.weights).eval()
        patch_kernels(model)
        # Layers cannot be tried without data, and are taken for unknown: texts go through caches, which takes from a
        # twentieth less to a fifth more.
        declare_layers(model, model.base_model, None)
        return model

    def critic(self, kind: Literal["shared", "separate"], lora: LoRA | None = None) -> Critic:
        """Its trunk is made and not copied: stand-ins with buffers cannot be."""
        model, _ = with_trained(self._made(), lora)
        critic = Critic(model, "shared")
        if kind == "separate":
            critic.shared, critic.trunk = False, model.base_model
            declare_layers(critic, model.base_model, None)
        return critic

    def peak(self, *models: nn.Module | None) -> Peak:
        return Peak(*models, widened=self.weights == torch.bfloat16 and self.load.dtype == torch.float32)

    def rollouts(self, P: int, G: int) -> Rollouts:
        L, T = self.load.prompt_tokens, self.load.sampling.max_new_tokens
        return FullRollouts(
            prompt_ids_PL=torch.ones(P, L, dtype=torch.long),
            prompt_mask_PL=torch.ones(P, L, dtype=torch.bool),
            response_ids_PGT=torch.ones(P, G, T, dtype=torch.long),
            mask_PGT=torch.ones(P, G, T, dtype=torch.bool),
            ended_PG=torch.zeros(P, G, dtype=torch.bool),
        )

    def _portion(self, P: int, G: int, **how: Any) -> int:
        """How many of P groups go through the model at once. A GPU that is full makes it one."""
        planned = groups_per_forward(self.read_only, self.rollouts(1, G), **how)
        return 1 if self.load.on_gpu else min(P, planned)

    def _training(self) -> int:
        load = self.load
        model, kind = self.model(), self.algorithm.needs.values
        critic = self.critic(kind, load.lora) if kind else None
        model, _ = with_trained(model, load.lora)
        minibatch = math.ceil(self.P / self.algorithm.needs.steps_per_pass)
        groups = min(load.micro_batch or self._portion(minibatch, self.G, backward=True), minibatch)
        rollouts = self.rollouts(groups, self.G)
        again = recomputed(model, critic) if load.gradient_checkpointing else nullcontext()
        with self.peak(model, critic) as peak, again:
            outputs = forward(model, rollouts, load.sampling.temperature, load.dtype, critic)
            loss = outputs.logps_PGT.sum()
            (loss if outputs.values_PGT is None else loss + outputs.values_PGT.sum()).backward()
        return peak.bytes

    def _scoring(self) -> int:
        model, rollouts = self.read_only, self.rollouts(self._portion(self.P, self.G), self.G)
        with torch.no_grad(), self.peak(model) as peak:
            forward(model, rollouts, 1.0, self.load.dtype)
        return peak.bytes

    def _evaluation(self) -> int:
        read = _Read(self.read_only, self.load.dtype, self.read_only)
        rollouts = self.rollouts(self._portion(self.load.evaluated_at_once, 1, logits=2), 1)
        with torch.no_grad(), self.peak(read.model, read.reference_model) as peak:
            of_tokens(cast(Policy, read), rollouts)
        return peak.bytes

    def _sampling(self) -> int:
        """The last step, when the cache is longest."""
        read, sampling, rows = _Read(self.read_only, self.load.dtype), self.load.sampling, self.rows
        text = [0] * (self.load.prompt_tokens + sampling.max_new_tokens - 1)
        in_dtype = precision(torch.device("cpu"), self.load.dtype)
        with torch.no_grad(), self.peak(read.model) as peak, in_dtype:
            batch = stepper(cast(Policy, read), [text], rows, 1)
            batch.prefill()
            logits_BV = batch.step(torch.zeros(rows, dtype=torch.long))
            logps_BV = (upcast(logits_BV) / sampling.temperature).log_softmax(-1)
            inverse_cdf(logps_BV, torch.zeros(rows, dtype=torch.float64))
        copies = 0 if self.load.on_gpu else packed_bytes(read.model, rows, self.load.dtype)
        return peak.bytes + copies
