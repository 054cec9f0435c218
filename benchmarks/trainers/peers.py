"""TRL's trainers on a case: DPO and RLOO of the installed TRL, PPO of the last TRL that had it.

Runs in the peers' environment too: nothing of this project is imported here but what describes the case.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from benchmarks.trainers.gate import Gate
from benchmarks.trainers.worlds import GROUP, PPO_EPOCHS, RESPONSE_TOKENS, SEQUENCES, Case, last_is_odd


class Gated(TrainerCallback):
    """Holds the trainer at the gate before its first step and after each."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.gate()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.gate()


def _arguments(case: Case) -> dict[str, Any]:
    """The trainers' defaults but for what would make them slower or different in kind."""
    return {
        "output_dir": str(case.folder / "trl"), "use_cpu": not torch.cuda.is_available(), "bf16": case.dtype == "bf16",
        "gradient_checkpointing": False, "gradient_accumulation_steps": 1, "learning_rate": 1e-6,
        "save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "dataloader_pin_memory": False, "seed": 0,
    }  # fmt: skip


def _model(case: Case) -> Any:
    return AutoModelForCausalLM.from_pretrained(case.model, dtype=torch.float32)


def dpo(case: Case, gate: Gate) -> None:
    from trl import DPOConfig, DPOTrainer

    settings = DPOConfig(
        **_arguments(case), per_device_train_batch_size=SEQUENCES // 2, num_train_epochs=1, max_length=None
    )
    trainer = DPOTrainer(
        model=_model(case), args=settings, train_dataset=Dataset.from_list(case.pairs),
        processing_class=AutoTokenizer.from_pretrained(case.model), callbacks=[Gated(gate)],
    )  # fmt: skip
    _require_whole(trainer.train_dataset, case)
    trainer.train()


def _require_whole(rows: Any, case: Case) -> None:
    """Every response is as long as it was meant to be, its EOS included."""
    for name in ("chosen", "rejected"):
        lengths = [len(row[f"{name}_ids"]) for row in rows]
        meant = [len(pair[name].split()) + 1 for pair in case.pairs]
        assert lengths == meant, (lengths, meant)


def rloo(case: Case, gate: Gate) -> None:
    from trl import RLOOConfig, RLOOTrainer

    settings = RLOOConfig(
        **_arguments(case), per_device_train_batch_size=SEQUENCES, num_generations=GROUP, num_iterations=1,
        max_completion_length=RESPONSE_TOKENS, max_steps=case.steps, temperature=1.0, top_p=1.0, top_k=0, beta=0.05,
    )  # fmt: skip
    trainer = RLOOTrainer(
        model=_model(case), reward_funcs=last_is_odd, args=settings,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in case.prompts]),
        processing_class=AutoTokenizer.from_pretrained(case.model), callbacks=[Gated(gate)],
    )  # fmt: skip
    trainer.train()


class LastIsOdd(nn.Module):
    """`last_is_odd` in the place of a reward model: the trunk passes the ids on, the head takes them modulo 2."""

    base_model_prefix = "trunk"

    def trunk(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(hidden_states=[input_ids[..., None]])

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        return (hidden % 2).float()


def ppo(case: Case, gate: Gate) -> None:
    from transformers import AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    settings = PPOConfig(
        **_arguments(case), per_device_train_batch_size=SEQUENCES, num_ppo_epochs=PPO_EPOCHS, num_mini_batches=1,
        response_length=RESPONSE_TOKENS, temperature=1.0, total_episodes=case.steps * SEQUENCES, num_sample_generations=0,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(case.model)
    value = AutoModelForSequenceClassification.from_pretrained(case.model, num_labels=1, dtype=torch.float32)
    trainer = PPOTrainer(
        args=settings, processing_class=tokenizer, model=_model(case), ref_model=_model(case), reward_model=LastIsOdd(),
        value_model=value, train_dataset=Dataset.from_dict(dict(tokenizer(case.prompts))), callbacks=[Gated(gate)],
    )  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Its own flag leaves all of it in fp32. Without a cache, whose weights would outlive the optimizer's steps here.
    with torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bf16", cache_enabled=False):
        trainer.train()
