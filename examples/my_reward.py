"""A reward and a judge of one's own: functions called as TRL calls its reward functions.

    rlhf-compare --model DIR_OR_HUB_ID --prompts prompts.jsonl \
        --reward examples/my_reward.py:concise --judge examples/my_reward.py:prefers_questions
"""

from __future__ import annotations

from typing import Any

KIND = ("please", "Please", "thank", "gladly", "sorry", "Of course")


def concise(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """One finite number a completion, higher is better. Columns of the data arrive as keywords."""
    return [1.0 - min(len(text.split()), 100) / 100 for text in completions]


def polite(prompts: list[str], completions: list[Any], **columns: Any) -> list[float]:
    """Kind words an answer. Where the prompts are conversations, completions are lists of messages."""
    texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
    return [float(sum(text.count(word) for word in KIND)) for text in texts]


def prefers_questions(prompts: list[str], a: list[str], b: list[str]) -> list[float]:
    """A pairwise judge, told by its parameters a and b: the probability that each a is better than its b."""
    ends = [
        (text_a.rstrip().endswith("?"), text_b.rstrip().endswith("?"))
        for text_a, text_b in zip(a, b, strict=True)
    ]
    return [0.5 + 0.5 * (first - second) for first, second in ends]
