"""A reward and a judge of one's own: functions called as TRL calls its reward functions.

    rlhf-compare --model DIR_OR_HUB_ID --prompts prompts.jsonl \
        --reward examples/my_reward.py:concise --judge examples/my_reward.py:prefers_questions
"""

from __future__ import annotations

from typing import Any

KIND = ("please", "Please", "thank", "gladly", "sorry", "Of course")


def text_of(completion: Any) -> str:
    """Where the prompts are conversations, a completion is a list of messages: one, the assistant's."""
    return completion if isinstance(completion, str) else str(completion[0]["content"])


def concise(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """One finite number a completion, higher is better. Columns of the data arrive as keywords."""
    return [1.0 - min(len(text_of(one).split()), 100) / 100 for one in completions]


def polite(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Kind words an answer."""
    return [float(sum(text_of(one).count(word) for word in KIND)) for one in completions]


def prefers_questions(prompts: list[Any], a: list[Any], b: list[Any]) -> list[float]:
    """A pairwise judge, told by its parameters a and b: the probability that each a is better than its b."""
    ends = [[text_of(one).rstrip().endswith("?") for one in side] for side in (a, b)]
    return [0.5 + 0.5 * (first - second) for first, second in zip(*ends, strict=True)]
