"""TRL's trainers on tiny models, and their one update."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from parity_worlds import PROMPTS, SCORES, Update, batch, gradients, ids, tokenizer, weights
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
)

from algos.engine.rollouts import Rollouts

PAIRS = [
    {"prompt": "a b", "chosen": " c d", "rejected": " e"},
    {"prompt": "c", "chosen": " a", "rejected": " b b c d"},
    {"prompt": "b a d e", "chosen": " e e e", "rejected": " a c"},
    {"prompt": "e c a", "chosen": " d", "rejected": " a b"},
]


def arguments(kind: Any, folder: Path, **changes: Any) -> Any:
    """A configuration on the CPU in fp32, one batch a step, constant rate, nothing saved or reported."""
    defaults = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
    }
    return kind(**(defaults | changes))


def dpo_trainer(
    model: PreTrainedModel, folder: Path, reference: PreTrainedModel | None = None, **changes: Any
) -> DPOTrainer:
    settings = arguments(
        DPOConfig, folder, per_device_train_batch_size=len(PAIRS), max_length=None, **changes
    )
    rows = Dataset.from_list(PAIRS)
    return DPOTrainer(
        model=model, ref_model=reference, args=settings, train_dataset=rows, processing_class=tokenizer()
    )


def no_reward(completions: Sequence[str], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def reward(completion_ids: list[list[int]], prompts: list[str], **_: Any) -> list[float]:
    """The score of each response, by what it is."""
    rollouts = batch()
    known = {
        (prompt, tuple(ids[mask].tolist())): score
        for prompt, group, masks, scores in zip(
            PROMPTS, rollouts.response_ids_PGT, rollouts.mask_PGT, SCORES, strict=True
        )
        for ids, mask, score in zip(group, masks, scores, strict=True)
    }
    return [known[prompt, tuple(ids)] for prompt, ids in zip(prompts, completion_ids, strict=True)]


def rloo_trainer(
    model: PreTrainedModel, folder: Path, reward: Any = no_reward, **changes: Any
) -> RLOOTrainer:
    return _sampler(RLOOTrainer, RLOOConfig, model, folder, reward, **changes)


def grpo_trainer(model: PreTrainedModel, folder: Path, **changes: Any) -> GRPOTrainer:
    return _sampler(GRPOTrainer, GRPOConfig, model, folder, no_reward, **changes)


def _sampler(
    kind: Any, config: Any, model: PreTrainedModel, folder: Path, reward: Any,
    *, prompts: Sequence[str] = PROMPTS, **changes: Any,
) -> Any:  # fmt: skip
    defaults = {
        "num_generations": 2,
        "per_device_train_batch_size": 2 * len(prompts),
        "gradient_accumulation_steps": 1,
        "max_completion_length": 5,
    }
    return kind(
        model=model,
        reward_funcs=reward,
        args=arguments(config, folder, **(defaults | changes)),
        train_dataset=Dataset.from_list([{"prompt": p} for p in prompts]),
        processing_class=tokenizer(),
    )


def reward_trainer(model: PreTrainedModel, folder: Path) -> RewardTrainer:
    settings = arguments(RewardConfig, folder, per_device_train_batch_size=len(PAIRS), max_length=None)
    rows = Dataset.from_list(PAIRS)
    return RewardTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer())


def inject(trainer: Any, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> None:
    """The trainer's generation gives these responses instead of sampling: the g-th time a prompt is asked for
    in one call, its g-th response."""
    given = {tuple(ids(p)): [ids(r) for r in group] for p, group in zip(prompts, responses, strict=True)}

    def generate(prompt_ids: list[list[int]], *_: Any) -> list[list[int]]:
        waiting = {prompt: iter(group) for prompt, group in given.items()}
        return [next(waiting[tuple(prompt)]) for prompt in prompt_ids]

    trainer._generate_single_turn = generate


class _Capture(TrainerCallback):
    def __init__(self, update: Update) -> None:
        self.update = update

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.update.gradients.append(gradients(kwargs["model"]))


def their_update(trainer: Any) -> Update:
    """`trainer.train()`, watched: losses, clipped gradients, weights."""
    update = Update(weights(trainer.model))
    trainer.add_callback(_Capture(update))
    compute_loss = trainer.compute_loss

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
        loss = compute_loss(*args, **kwargs)
        update.losses.append(loss.detach().clone())
        return loss

    trainer.compute_loss = watched
    trainer.train()
    update.after = weights(trainer.model)
    return update


def loss_of(
    trainer: Any, rollouts: Rollouts, logps: Tensor, advantages: Tensor, old: Tensor, **more: Tensor
) -> tuple[Tensor, Tensor]:
    """TRL's loss of given log-probabilities, and the leaf that they are."""
    leaf = logps.detach().flatten(0, 1).clone().requires_grad_()
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (leaf, torch.zeros_like(leaf), None)
    mask = rollouts.mask_PGT.flatten(0, 1)
    old = old.flatten(0, 1)
    given = {
        "prompt_ids": torch.zeros(len(mask), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.long),
        "completion_ids": mask.long(),
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_logps": (old * mask).sum(-1),
        "old_per_token_logps": old,
        **more,
    }
    return trainer._compute_loss(trainer.model, given), leaf
