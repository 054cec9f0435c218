"""What every family of models is trained on and scored on."""

from __future__ import annotations

import torch
from families import WORDS
from tiny import rollouts_of

from algos import DPO, PPO, REINFORCE, Algorithm, Sampling
from algos.engine.rollouts import Rollouts

SAMPLING = Sampling(max_new_tokens=8, group_size=3, prompts_per_iteration=3)
PROMPTS = ["a b c", "d e f g h i j a b c d", "e f"]
PAIRS = [{"prompt": text, "chosen": f" {text[0]} c d e f g h", "rejected": " b j"} for text in PROMPTS]
ALGORITHMS: dict[str, Algorithm] = {
    "reinforce": REINFORCE(learning_rate=1e-2),
    "ppo": PPO(learning_rate=1e-2, ppo_epochs=1),
    "ppo-separate": PPO(learning_rate=1e-2, ppo_epochs=1, value_model="separate"),
    "dpo": DPO(learning_rate=1e-2, batch_size=3),
}


def rewarded(completions: list[str], **_: object) -> list[float]:
    return [text.split().count("a") - 0.1 * len(text.split()) for text in completions]


def batch() -> Rollouts:
    """Prompts and responses of unequal lengths, longer together than any sliding window."""
    random = torch.Generator().manual_seed(1)

    def words(n: int) -> list[int]:
        return torch.randint(1, len(WORDS.split()), (n,), generator=random).tolist()

    return rollouts_of([words(n) for n in (3, 11, 7)], [[words(9), words(n)] for n in (2, 9, 5)])
