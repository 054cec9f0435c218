"""What stands in memory during a run, phase by phase: the engine's own code, run on tensors without data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from algos import DPO, LoRA, Policy, Sampling
from algos.engine.algorithm import Algorithm
from algos.engine.critic import Critic
from algos.engine.decoding import inverse_cdf, stepper
from algos.engine.fast.direct import declare_layers
from algos.engine.fast.head import declare_linear_head, linear_head
from algos.engine.fast.kernels import patch_kernels
from algos.engine.fast.products import packed_bytes
from algos.engine.forward import forward, groups_per_forward, upcast
from algos.engine.inputs import precision
from algos.engine.models.frozen import resting_place
from algos.engine.recompute import recomputed
from algos.engine.rollouts import Rollouts
from algos.engine.sampling import MAX_ROWS
from eval.memory.standins import FullRollouts, Peak, has_linear_head, stand_ins, with_trained
from eval.metrics import of_tokens

if TYPE_CHECKING:
    from transformers import PretrainedConfig

OVERHEAD, GAPS = 100 * 2**20, 1.1
"""Beside tensors: what libraries load while they work (what they hold before, `room.libraries` tells), and what an
allocator leaves unused between blocks."""


@dataclass(frozen=True)
class Load:
    """What memory depends on beside the algorithm. Tokens are those of the longest prompt."""

    config: PretrainedConfig
    prompt_tokens: int
    sampling: Sampling
    dtype: torch.dtype
    lora: LoRA | None = None
    gradient_checkpointing: bool = False
    micro_batch: int = 0
    """Prompts in one forward and backward; 0: what the engine begins with."""
    evaluated: int = 64
    """Responses in an evaluation, and of these how many go through the models at once."""
    evaluated_at_once: int = 64
    scorer_parameters: int = 0
    """Of the reward model and the judge's together."""
    on_gpu: bool = False
    """Where memory that runs out is met with smaller portions; a CPU's process would be killed."""
    at_once: int = 1
    """Such runs at the same time: each has files of its own."""
    copied: bool = False
    """Whether the reference is a copy of the model even with adapters: that of one which was trained before."""


@dataclass(frozen=True)
class Need:
    """Bytes: what stands in memory throughout, and what each phase takes beside it, one after the other."""

    standing: dict[str, int]
    phases: dict[str, int]

    @property
    def peak(self) -> int:
        return OVERHEAD + int(GAPS * (sum(self.standing.values()) + max(self.phases.values())))


def need_of(algorithm: Algorithm, load: Load) -> Need:
    """What a run of the algorithm needs at its largest moment, every prompt and response as long as can be."""
    standing = standing_of(algorithm, load)
    with stand_ins():
        phases = _in_bf16_where_needed(lambda weights: _Phases(algorithm, load, weights).bytes())
    if _has_copy(load) and not standing["reference"]:  # then it is as large as the weights, where it is read
        phases |= {name: phases[name] + standing["weights"] for name in ("scoring", "evaluation")}
    # Gradients. On a GPU the optimizer takes all weights at once, but in place; elsewhere one after another.
    return Need(standing, phases | {"optimizer step": standing["optimizer"] // 2})


def standing_of(algorithm: Algorithm, load: Load) -> dict[str, int]:
    """The part of the need that no phase can do without."""
    with torch.device("meta"):
        whole, kind = _whole(load), algorithm.needs.values
        size = sum(p.numel() for p in whole.parameters())
        own = whole.get_output_embeddings().weight.shape[-1] + 1 if kind else 0
        _, trained = with_trained(whole, load.lora)
        if kind == "separate":  # what is frozen it shares with the policy
            own += trained if load.lora else sum(p.numel() for p in whole.base_model.parameters())
    return {
        "weights": 4 * (size + (trained if load.lora else 0)),
        "reference": 4 * size if _has_copy(load) and not _rests(4 * size, load) else 0,
        "value function": 4 * own,
        "optimizer": 8 * (trained + own),
        "reward and judge": 4 * load.scorer_parameters,
    }


def _has_copy(load: Load) -> bool:
    """Whether the reference has weights of its own, as it has not where a fresh adapter is switched off."""
    return load.lora is None or load.copied


def _rests(reference: int, load: Load) -> bool:
    """Whether a reference of so many bytes leaves memory while nobody reads it."""
    return not load.on_gpu and resting_place(reference, load.at_once) is not None


def reward_model_need(load: Load, pairs: int) -> Need:
    """What training a reward model needs: all weights of a trunk of its own, and so many pairs at once."""

    def training(weights: torch.dtype) -> dict[str, int]:
        phases = _Phases(DPO(batch_size=pairs), load, weights)
        model = phases.critic("separate")
        again = recomputed(model) if load.gradient_checkpointing else nullcontext()
        with phases.peak(model) as peak, again, precision(torch.device("cpu"), load.dtype):
            model(phases.rollouts(pairs, 2), None).sum().backward()
        return {"training": peak.bytes}

    with torch.device("meta"):
        size = sum(p.numel() for p in _whole(load).parameters())
    with stand_ins():
        return Need({"weights": 4 * size, "optimizer": 8 * size}, _in_bf16_where_needed(training))


def _whole(load: Load) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(load.config, dtype=torch.float32)


def _in_bf16_where_needed(measure: Callable[[torch.dtype], dict[str, int]]) -> dict[str, int]:
    """Kernels of experts exist for stand-ins in bf16 alone."""
    try:
        return measure(torch.float32)
    except RuntimeError:
        return measure(torch.bfloat16)


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


class _Phases:
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
