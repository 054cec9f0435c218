"""Our PPO update and TRL's from the same start: models on disk, given completions, the peers' environment."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from parity_table import ROOT
from parity_worlds import PAD, Update, ids, model, our_update, policy_of, tokenizer, weights
from safetensors.torch import load_file
from tiny import rollouts_of
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from algos import PPO
from algos.engine.algorithm import Outputs, State
from algos.engine.rollouts import Rollouts
from algos.engine.seeding import generator
from algos.engine.state import TrainState
from algos.losses import value_loss

PEERS = ROOT / os.environ.get("PEERS", ".venv-peers")
_FOUND = [path.name.split("-")[1] for path in PEERS.glob("lib/python*/site-packages/trl-*.dist-info")]
PEER = f"TRL {''.join(_FOUND).removesuffix('.dist')}, `PPOTrainer.train`"
WIDTH, TEMPERATURE, RATE, EPOCHS, MINIBATCHES = 5, 0.7, 1e-2, 3, 2
PROMPTS = ["a b", "c", "b a d e", "e c a", "d", "a e e", "c b", "b"]
FULL = [
    "b a c d <eos>", "c c d e b", "e d c b a", "a a b c <eos>", "b b b b b", "d a c e <eos>", "e e a d c", "c a b d e",
]  # fmt: skip
RAGGED = [
    "b a <eos>", "c c d e b", "<eos>", "a a b c <eos>", "b <eos>", "d a c e <eos>", "e e a <eos>", "c a b d e",
]  # fmt: skip
ORDERS = [
    torch.randperm(len(PROMPTS), generator=generator(0, "minibatches", 1, epoch)).tolist()
    for epoch in range(EPOCHS)
]
"""The shuffles of our second iteration's epochs, which TRL is given."""
OURS: dict[str, Any] = {
    "beta": 0.3, "learning_rate": RATE, "schedule": "constant", "adam_eps": 1e-3, "max_grad_norm": 1e9,
    "clip_range": 0.15, "value_clip_range": 0.1, "gamma": 0.97, "gae_lambda": 0.9, "ppo_epochs": EPOCHS,
    "minibatches": MINIBATCHES, "value_model": "separate", "value_coefficient": 0.3,
}  # fmt: skip
"""AdamW's ε is 1e-3 in both, so that the rounding of vanishing gradients is not made steps of full size: with 1e-4 the
weights after six steps in fp32 were 4e-6 apart on AMD's processors and 1.1e-5 on Intel's. TRL's update clips no
gradient."""
THEIRS = {
    "kl_coef": 0.3, "learning_rate": RATE, "adam_epsilon": 1e-3, "weight_decay": 0.0, "cliprange": 0.15,
    "cliprange_value": 0.1, "gamma": 0.97, "lam": 0.9, "num_ppo_epochs": EPOCHS, "num_mini_batches": MINIBATCHES,
    "vf_coef": 0.3, "per_device_train_batch_size": len(PROMPTS), "gradient_accumulation_steps": 1,
}  # fmt: skip


class Bessel(PPO):
    """Ours, but whitened as TRL does: by the sample variance, with Bessel's correction."""

    def prepare(self, rollouts: Rollouts, state: State) -> tuple[Rollouts, State]:
        prepared, state = replace(self, whiten_advantages=False).unwhitened(rollouts, state)
        x, mask = prepared.advantages_PGT, prepared.loss_mask_PGT
        n = mask.sum()  # an integer, so that the correction is rounded to fp32: theirs is
        scale = torch.rsqrt(x[mask].var(correction=0) * (n / (n - 1)) + 1e-8)
        return replace(prepared, advantages_PGT=torch.where(mask, (x - x[mask].mean()) * scale, 0.0)), state

    def unwhitened(self, rollouts: Rollouts, state: State) -> tuple[Rollouts, State]:
        return super().prepare(rollouts, state)


class OneLater(Bessel):
    """Ours, but with TRL's position behind the last token: score and a value to learn stand there."""

    def loss(self, outputs: Outputs, prepared: Rollouts) -> tuple[Tensor, dict[str, Tensor]]:
        policy, metrics = PPO.loss(replace(self, value_coefficient=0.0), outputs, prepared)
        fit = value_loss(
            outputs.values_PGT,
            prepared.returns_PGT,
            prepared.mask_PGT,
            prepared.values_PGT,
            self.value_clip_range,
        )
        return policy + self.value_coefficient * fit, metrics


def one_later(rollouts: Rollouts) -> Rollouts:
    """Each response that is not cut with one more token, which carries no loss and no KL."""
    longer = torch.arange(rollouts.T) <= rollouts.lengths_PG[..., None]
    return replace(rollouts, mask_PGT=longer, fixed_PGT=longer & ~rollouts.mask_PGT)


@dataclass
class World:
    """Models on disk, TRL's result, and ours from the same start."""

    folder: Path
    dtype: torch.dtype
    responses: list[str]

    def classifier(self, seed: int) -> Any:
        config = copy.deepcopy(model("llama").config)
        config.num_labels, config.pad_token_id = 1, PAD
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForSequenceClassification.from_config(config)

    def write(self, **settings: Any) -> None:
        made = {"policy": model("llama", seed=1), "reference": model("llama", seed=0)}
        made |= {"value": self.classifier(2), "reward": self.classifier(3)}
        for name, each in made.items():
            each.save_pretrained(self.folder / name)
        tokenizer().save_pretrained(self.folder / "policy")
        case = {
            "prompts": [ids(p) for p in PROMPTS],
            "responses": [ids(r) for r in self.responses],
            "orders": ORDERS,
            "width": WIDTH,
            "temperature": TEMPERATURE,
            "dtype": str(self.dtype).removeprefix("torch."),
            "settings": THEIRS | settings,
        }
        (self.folder / "case.json").write_text(json.dumps(case), encoding="utf-8")

    @cached_property
    def peer(self) -> dict[str, Tensor]:
        """TRL's update, with the settings that are ours."""
        return self.theirs()

    def theirs(self, **settings: Any) -> dict[str, Tensor]:
        self.write(**settings)
        command = [PEERS / "bin" / "python", ROOT / "peers" / "trl_ppo.py", self.folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return load_file(self.folder / "result.safetensors")

    def rollouts(self, scores: Tensor) -> Rollouts:
        made = rollouts_of([ids(p) for p in PROMPTS], [[ids(r)] for r in self.responses], PAD)
        return replace(made, scores_PG=scores[:, None])

    def start(self, algorithm: PPO) -> TrainState:
        """The same weights; our head's bias, which TRL's has not, stays at 0."""
        policy = policy_of(model("llama", seed=1, dtype=self.dtype), model("llama", seed=0, dtype=self.dtype))
        state, value = TrainState.start(algorithm, policy, seed=0), self.classifier(2).to(self.dtype)
        assert state.critic is not None
        state.critic.trunk.load_state_dict(value.model.state_dict())
        state.critic.head.weight.data.copy_(value.score.weight.data)
        state.critic.head.bias.requires_grad_(False)
        return state

    def ours(self, algorithm: PPO, rollouts: Rollouts) -> tuple[Update, dict[str, Tensor]]:
        """The update of the policy, and the critic's weights after it under the names they have in TRL."""
        state = self.start(algorithm)
        update = our_update(algorithm, state.policy, rollouts, temperature=TEMPERATURE, state=state)
        critic = weights(state.critic)
        return update, {
            name.replace("trunk.", "model.").replace("head.", "score."): x
            for name, x in critic.items()
            if name != "head.bias"
        }
