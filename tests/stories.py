"""What is asked of a real pretrained model: its prompts, how it is sampled from, and its reward on held-out prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from algos import Policy, Sampling, sample
from algos.engine.batches.prompts import encode_prompts
from algos.engine.batches.sampled import score

SAMPLING = Sampling(max_new_tokens=24, group_size=4, prompts_per_iteration=8)


def rows(file: Path, count: int) -> list[dict[str, str]]:
    """The first rows of a JSON Lines file."""
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]


def held_out(policy: Policy, data: Path, vader: Callable[..., list[float]]) -> float:
    """The mean reward on prompts that no training sees."""
    encoded, _ = encode_prompts(policy, rows(data / "stories_prompts.jsonl", 400)[-64:], 24)
    rollouts = sample(policy, [prompt.ids for prompt in encoded], SAMPLING, 7)
    return float(score(policy, encoded, rollouts, vader).mean())
