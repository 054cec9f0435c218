"""The least a step has to compute and read, counted, and how fast this machine multiplies matrices and reads memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from algos.engine.fast.products import product
from benchmarks.trainers.gate import synchronise
from benchmarks.trainers.ours import prompts_a_step
from benchmarks.trainers.phases import OLD, REFERENCE, REWARD, SAMPLING, UPDATE
from benchmarks.trainers.worlds import PPO_EPOCHS, RESPONSE_TOKENS, SEQUENCES, SIZES, Case

READ_BY_ATTENTION = ("c_attn", "q_proj", "k_proj", "v_proj")
"""The linear layers before attention, in GPT-2 and Llama."""
BACKWARD = 2
"""A backward pass multiplies each matrix twice where the forward pass does once."""


@dataclass(frozen=True)
class Work:
    """What a phase needs: floating-point operations, and bytes of weights that cannot stay in a cache."""

    flops: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Cost:
    """What a model multiplies for a token."""

    trunk: int
    """Weights of the trunk's matrices; embeddings are looked up."""
    head: int
    """Weights of the output matrix."""
    attention: int
    """Layers × heads × width of a head."""
    last: int
    """Weights of the trunk's last layer behind its attention: of no use to tokens that nothing is predicted from."""

    @classmethod
    def of(cls, model: Any) -> Cost:
        config = model.config
        each = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        (layers,) = (x for x in model.base_model.children() if isinstance(x, nn.ModuleList))
        last = {name: x.weight.numel() for name, x in layers[-1].named_modules() if is_matrix(x)}
        return cls(
            last=sum(n for name, n in last.items() if name.split(".")[-1] not in READ_BY_ATTENTION),
            trunk=sum(n * rows * columns for (rows, columns), n in matrices(model).items()),
            head=model.get_output_embeddings().weight.numel(),
            attention=config.num_hidden_layers * config.num_attention_heads * each,
        )

    @classmethod
    def of_size(cls, name: str) -> Cost:
        with torch.device("meta"):
            return cls.of(AutoModelForCausalLM.from_config(SIZES[name].config()))

    def flops(self, lengths: Sequence[int], predicted: int) -> float:
        """FLOPs of a forward pass over sequences of these lengths of which `predicted` positions reach the head.

        Attention counts the whole square, which at these lengths kernels compute.
        """
        pairs = sum(length**2 for length in lengths)
        return 2.0 * (self.trunk * sum(lengths) + 2 * self.attention * pairs + self.head * predicted)

    def groups(self, prompts: Sequence[int], responses: int, read: int) -> float:
        """FLOPs of the trunk reading each prompt once, and behind it so many tokens of each of its responses."""
        tokens = sum(prompt + responses * read for prompt in prompts)
        pairs = sum(prompt**2 + responses * read * (prompt + read) for prompt in prompts)
        return 2.0 * (self.trunk * tokens + 2 * self.attention * pairs)

    def spared(self, tokens: int, predicted_from: int) -> float:
        """FLOPs of a forward pass over so many tokens that the last layer need not do, where tokens are predicted from so
        many of them."""
        return 2.0 * self.last * (tokens - predicted_from)

    def decoding(self, context: int) -> float:
        """FLOPs of one more token behind `context` others."""
        return 2.0 * (self.trunk + 2 * self.attention * (context + 1) + self.head)


def matrices(model: Any) -> Counter[tuple[int, int]]:
    """The trunk's matrices as (rows in, columns out), and how many there are of each."""
    head, found = model.get_output_embeddings(), Counter[tuple[int, int]]()
    for module in model.modules():
        if is_matrix(module) and module is not head:
            rows, columns = module.weight.shape
            found[(rows, columns) if isinstance(module, Conv1D) else (columns, rows)] += 1
    return found


def is_matrix(module: nn.Module) -> bool:
    return isinstance(module, Conv1D | nn.Linear)


def needed(case: Case, algorithm: str) -> dict[str, Work]:
    """The least work of each phase of a step: no padding, no token after the last whose successor is predicted, only
    response positions at the head and behind the last layer's attention, each prompt read once for its group."""
    cost, T = Cost.of_size(case.size), RESPONSE_TOKENS
    texts = [pair["prompt"] for pair in case.pairs] if algorithm == "dpo" else case.prompts
    prompts = [len(text.split()) for text in texts]
    groups = SEQUENCES // 2 if algorithm == "dpo" else prompts_a_step(algorithm)

    def a_step(flops: float, of: int) -> float:
        """The mean over all prompts of the case, for `of` of them, or of their responses."""
        return flops * of / len(prompts)

    if groups < SEQUENCES:
        trunk = a_step(cost.groups(prompts, SEQUENCES // groups, T - 1), groups)
    else:
        trunk = a_step(cost.flops([prompt + T - 1 for prompt in prompts], 0), SEQUENCES)
    # Behind a prompt one token is predicted, the first of all of its responses.
    trunk -= a_step(cost.spared(sum(prompts), len(prompts)), groups)
    whole = trunk + 2.0 * cost.head * SEQUENCES * T
    critic = trunk if algorithm == "ppo-separate" else 0.0
    passes = PPO_EPOCHS if algorithm.startswith("ppo") else 1
    work = {REFERENCE: Work(whole), UPDATE: Work(passes * (1 + BACKWARD) * (whole + critic))}
    if algorithm == "dpo":
        return work
    prefill = a_step(cost.flops(prompts, len(prompts)) - cost.spared(sum(prompts), len(prompts)), groups)
    steps = sum(cost.decoding(prompt + t) for prompt in prompts for t in range(T - 1))
    weights = (cost.trunk + cost.head) * (2 if case.dtype == "bf16" else 4)
    sampling = Work(prefill + a_step(steps, SEQUENCES), float(T * weights))
    return {SAMPLING: sampling, REWARD: Work(), OLD: Work(whole + critic), **work}


class Rates:
    """What this process reaches at the moment of a call: FLOP/s on the model's own matrices with a step's rows, and bytes/s
    reading as many bytes as the model's weights have."""

    def __init__(self, case: Case) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if case.dtype == "bf16" else torch.float32
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(SIZES[case.size].config())
        cost = Cost.of(model)
        tokens = sum(len(prompt.split()) + RESPONSE_TOKENS for prompt in case.prompts[:SEQUENCES])
        vocabulary, width = model.get_output_embeddings().weight.shape
        shapes = [(tokens, *shape, n) for shape, n in matrices(model).items()]
        shapes.append((SEQUENCES * RESPONSE_TOKENS, width, vocabulary, 1))
        self.flops = sum(2.0 * rows * k * columns * n for rows, k, columns, n in shapes)
        draw = partial(torch.randn, device=device, dtype=dtype)
        self.products = [(n, draw((rows, k)), draw((columns, k))) for rows, k, columns, n in shapes]
        self.weights = torch.ones(cost.trunk + cost.head, device=device, dtype=dtype)

    def __call__(self) -> dict[str, float]:
        """Ours or torch's product, whichever takes less."""
        seconds = sum(
            n * min(typical(partial(multiply, a, b)) for multiply in (product, F.linear))
            for n, a, b in self.products
        )
        return {
            "flops_per_second": self.flops / seconds,
            "bytes_per_second": self.weights.nbytes / typical(self.weights.max),
        }


def typical(work: Callable[[], Any], tries: int = 3, seconds: float = 0.1) -> float:
    """The median of so many calls, and of more within so many seconds: a machine that others use is no faster between
    steps than it is in them."""
    taken: list[float] = []
    begun = time.perf_counter()
    while len(taken) < tries or time.perf_counter() < begun + seconds:
        synchronise()
        start = time.perf_counter()
        work()
        synchronise()
        taken.append(time.perf_counter() - start)
    return median(taken)
