"""The judge: the measure used only in evaluation, of single responses or of two at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from algos.engine.calls import RewardError, guarded
from algos.engine.rewards import call_reward, checked_scores
from algos.engine.text.tokens import as_completion


@dataclass(frozen=True)
class Judge:
    """Scores responses, or tells which of two is better: `f(prompts, a, b) -> P(a better)`."""

    function: Callable[..., Any]
    name: str
    pairwise: bool = False
    is_reward: bool = False
    """Whether it is the training reward itself, which then has said already what it is asked."""

    def scores(
        self,
        rows: Sequence[Mapping[str, Any]],
        completions: Sequence[str],
        ids: Sequence[list[int]],
        base: Sequence[str],
        proxy: Sequence[float],
    ) -> list[float]:
        """A score a response; of a pairwise judge the probability that it beats the base's response. `proxy`: what the
        training reward said of them, NaN where it said nothing."""
        if self.pairwise:
            return self.prefers(rows, completions, base)
        if self.is_reward and not any(map(math.isnan, proxy)):
            return list(proxy)
        return call_reward(self.function, rows, completions, ids)

    def prefers(self, rows: Sequence[Mapping[str, Any]], a: Sequence[str], b: Sequence[str]) -> list[float]:
        """P(a better than b) for each prompt, asked in both orders and averaged: judges favour a position. Of two that are
        the same it is 0.5 by that, and nobody is asked."""
        unlike = [i for i, (one, other) in enumerate(zip(a, b, strict=True)) if one != other]
        if not unlike:
            return [0.5] * len(rows)
        asked = self._compared([rows[i] for i in unlike], [a[i] for i in unlike], [b[i] for i in unlike])
        found = dict(zip(unlike, asked, strict=True))
        return [found.get(i, 0.5) for i in range(len(rows))]

    def _compared(self, rows: Sequence[Mapping[str, Any]], a: Sequence[str], b: Sequence[str]) -> list[float]:
        prompts = [row["prompt"] for row in rows]
        sides = [
            [as_completion(prompt, text) for prompt, text in zip(prompts, side, strict=True)]
            for side in (a, b)
        ]
        compare, previews = guarded(self.function), [text[:60] for text in a]
        checked = [
            checked_scores(
                compare(prompts=prompts, a=one, b=other), len(rows), f"judge {self.name}", previews
            )
            for one, other in (sides, sides[::-1])
        ]
        outside = [p for scores in checked for p in scores if not 0 <= p <= 1]
        if outside:
            raise RewardError(
                f"the judge {self.name} returned {outside[0]}; a pairwise judge returns P(a better) in [0, 1]."
            )
        return [(p + 1 - q) / 2 for p, q in zip(*checked, strict=True)]


def wins(
    judge: Judge,
    rows: Sequence[Mapping[str, Any]],
    a: Sequence[Mapping[str, Any]],
    b: Sequence[Mapping[str, Any]],
) -> float:
    """Share of responses to the same prompts where the judge prefers a's to b's, ties half. Both are stored samples."""
    if judge.pairwise:
        won = judge.prefers(rows, [x["completion"] for x in a], [y["completion"] for y in b])
    else:
        # One text scored in two batches may differ by rounding.
        won = [
            0.5
            if x["judge"] == y["judge"] or x["completion"] == y["completion"]
            else float(x["judge"] > y["judge"])
            for x, y in zip(a, b, strict=True)
        ]
    return sum(won) / len(won)
