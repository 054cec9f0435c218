"""The hidden judge of the built-in task: what a review is truly worth. Only the pairs' labels and evaluation see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.tasks.reviews.grammar import parse

UNGRAMMATICAL = 0.3
REPEATED = 0.6
EXTRA_CLAUSE = 0.8
FREE_CLAUSES = 3


def gold(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    """Worth of each review in [0, 1]: the logistic of its summed sentiment, × 0.3 where it does not parse, × 0.6 for
    each repeated noun or adjective, × 0.8 for each clause beyond three. Called as TRL calls reward functions."""
    return [_worth(prompt + completion) for prompt, completion in zip(prompts, completions, strict=True)]


def _worth(text: str) -> float:
    review = parse(text)
    worth = 1.0 / (1.0 + float(np.exp(-review.valence)))
    worth *= 1.0 if review.grammatical else UNGRAMMATICAL
    return worth * REPEATED**review.repeated * EXTRA_CLAUSE ** max(0, review.clauses - FREE_CLAUSES)
