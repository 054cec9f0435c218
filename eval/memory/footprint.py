"""What a run needs of memory: what stands in it throughout, and what each phase takes beside it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from algos import DPO, LoRA, Sampling
from algos.engine.algorithm import Algorithm
from algos.engine.inputs import precision
from algos.engine.models.frozen import resting_place
from algos.engine.recompute import recomputed
from eval.memory.phases import Phases
from eval.memory.standins import stand_ins, with_trained

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
        phases = _in_bf16_where_needed(lambda weights: Phases(algorithm, load, weights).bytes())
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
        phases = Phases(DPO(batch_size=pairs), load, weights)
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
