"""One update of TRL's PPOTrainer on given completions, in the peers' environment: `python trl_ppo.py FOLDER`.

FOLDER holds the models `policy`, `reference`, `value` and `reward` with the tokenizer beside `policy`, and `case.json`.
Written to it: `result.safetensors` with the scores, each step's loss and gradients, the advantages before and after
whitening, and the weights after the update, all with prompts in the order of `case.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


def main(folder: Path) -> None:
    case = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    result: dict[str, torch.Tensor] = {}
    trainer = build(folder, case)
    place = inject_completions(case, trainer)
    inject_orders(case["orders"], place)
    watch(trainer, place, result)
    trainer.train()
    result |= {f"after/{name}": p.detach() for name, p in trainer.model.named_parameters()}
    save_file({name: x.clone().contiguous() for name, x in result.items()}, folder / "result.safetensors")


def build(folder: Path, case: dict[str, Any]) -> PPOTrainer:
    dtype = getattr(torch, case["dtype"])
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(folder / name, dtype=dtype) for name in ("policy", "reference")
    )
    value, reward = (
        AutoModelForSequenceClassification.from_pretrained(folder / name, num_labels=1, dtype=dtype)
        for name in ("value", "reward")
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    settings = PPOConfig(
        output_dir=str(folder / "run"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        save_strategy="no", disable_tqdm=True, lr_scheduler_type="constant", num_sample_generations=0,
        total_episodes=len(case["prompts"]), local_rollout_forward_batch_size=len(case["prompts"]),
        stop_token="eos", response_length=case["width"],
        # The trainer adds 1e-7 to it wherever it divides.
        temperature=case["temperature"] - 1e-7, **case["settings"],
    )  # fmt: skip
    return PPOTrainer(
        args=settings, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward,
        value_model=value, train_dataset=Dataset.from_dict({"input_ids": case["prompts"]}),
    )  # fmt: skip


def inject_completions(case: dict[str, Any], trainer: PPOTrainer) -> dict[int, int]:
    """Generation gives the case's completions. Returns where each prompt stands in the trainer's shuffled batch,
    which is known once it has asked for them."""
    place: dict[int, int] = {}

    def batch_generation(
        model: Any, queries: torch.Tensor, _: int, pad: int, __: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        asked = [case["prompts"].index([i for i in row if i != pad]) for row in queries.tolist()]
        place.update({prompt: row for row, prompt in enumerate(asked)})
        responses = [case["responses"][prompt] for prompt in asked]
        padded = torch.tensor([ids + [pad] * (case["width"] - len(ids)) for ids in responses])
        both = torch.cat([queries, padded], dim=1)
        logits = ppo_trainer.forward(model, both, pad).logits[:, queries.shape[1] - 1 : -1]
        return both, logits / case["temperature"]

    ppo_trainer.batch_generation = batch_generation
    return place


def inject_orders(orders: list[list[int]], place: dict[int, int]) -> None:
    """The shuffles of the epochs are the case's orders of prompts."""
    waiting = iter(orders)
    np.random.permutation = lambda _: np.array([place[prompt] for prompt in next(waiting)])


def watch(trainer: PPOTrainer, place: dict[int, int], result: dict[str, torch.Tensor]) -> None:
    def rows(x: torch.Tensor) -> torch.Tensor:
        return x.detach()[[place[prompt] for prompt in range(len(place))]].clone()

    get_reward, masked_whiten, backward = (
        ppo_trainer.get_reward, ppo_trainer.masked_whiten, trainer.accelerator.backward
    )  # fmt: skip

    def watched_reward(model: Any, *args: Any) -> Any:
        found = get_reward(model, *args)
        if model is trainer.reward_model:
            result["scores"] = rows(found[1])
        return found

    def watched_whiten(values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
        whitened = masked_whiten(values, mask, shift_mean)
        result.update({"advantages": rows(values), "whitened": rows(torch.where(mask, whitened, 0.0))})
        return whitened

    def watched_backward(loss: torch.Tensor) -> None:
        result[f"loss/{sum(name.startswith('loss/') for name in result)}"] = loss.detach().clone()
        backward(loss)

    steps: list[int] = []

    def before_step(*_: Any) -> None:
        named = trainer.model.named_parameters()
        result.update(
            {f"gradient/{len(steps)}/{name}": p.grad.clone() for name, p in named if p.grad is not None}
        )
        steps.append(len(steps))

    ppo_trainer.get_reward, ppo_trainer.masked_whiten = watched_reward, watched_whiten
    trainer.accelerator.backward = watched_backward
    # Else accelerate would step after every micro-batch of an epoch's last batch, and there is only one batch here.
    trainer.accelerator.gradient_state.plugin_kwargs["sync_with_dataloader"] = False
    trainer.optimizer.optimizer.register_step_pre_hook(before_step)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
