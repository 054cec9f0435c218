"""The settings of `reviews`. β, learning rates and epochs were chosen on validation prompts: docs/reviews.md."""

from __future__ import annotations

from typing import Any

PRESET: dict[str, Any] = {
    "budget": "5e11flops",
    "sampling": {"max_new_tokens": 24, "group_size": 4, "prompts_per_iteration": 16},
    # Every evaluation prompt, so that the arms' paths and the frontier are of the same prompts.
    "eval": {"responses": 4, "points": 8},
    "frontier": {"prompts": 64, "samples": 256},
    "reinforce": {"beta": 0.1, "learning_rate": 2e-3},
    "ppo": {"beta": 0.1, "learning_rate": 5e-4},
    "dpo": {"beta": 0.3, "learning_rate": 3e-4, "epochs": 3},
}
