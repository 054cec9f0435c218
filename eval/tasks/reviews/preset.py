"""The settings of `reviews`. β and learning rates were chosen on validation prompts: docs/reviews.md says how."""

from __future__ import annotations

from typing import Any

PRESET: dict[str, Any] = {
    "budget": "5e11flops",
    "sampling": {"max_new_tokens": 24, "group_size": 4, "prompts_per_iteration": 16},
    "reinforce": {"beta": 0.1, "learning_rate": 1e-3},
    "ppo": {"beta": 0.1, "learning_rate": 1e-3},
    "dpo": {"beta": 0.1, "learning_rate": 1e-3, "epochs": 1},
}
