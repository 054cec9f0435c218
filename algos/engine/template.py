"""Chat messages → text, through the tokenizer's template. (placeholder until merged)"""

from __future__ import annotations

from typing import Any


def render_prompt(tokenizer: Any, prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))


def render_pair(tokenizer: Any, row: Any) -> tuple[str, str, str]:
    return row["prompt"], row["chosen"], row["rejected"]
