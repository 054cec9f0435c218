"""The judge: who wins, and what a pairwise one is asked."""

from __future__ import annotations

import pytest

from algos.engine.calls import RewardError
from eval.judge import Judge, wins


def test_ties_count_half() -> None:
    judge = Judge(lambda **_: [], "j")
    a = [{"judge": x, "completion": "a"} for x in (1.0, 2.0, 3.0, 3.0)]
    b = [{"judge": x, "completion": "b"} for x in (1.0, 1.0, 4.0, 1.0)]
    assert wins(judge, [{"prompt": ""}] * 4, a, b) == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    rounded = [{"judge": 1.0 + 1e-7, "completion": "a"}]  # the same text, in a batch of another width
    assert wins(judge, [{"prompt": ""}], rounded, [a[0]]) == 0.5


def test_a_pairwise_judge_is_asked_in_both_orders() -> None:
    """One that always favours the first place prefers nobody."""
    judge = Judge(lambda prompts, a, b: [1.0] * len(a), "first", pairwise=True)
    assert judge.prefers([{"prompt": "p"}], ["x"], ["y"]) == [0.5]
    with pytest.raises(RewardError, match=r"in \[0, 1\]"):
        Judge(lambda prompts, a, b: [2.0], "wild", pairwise=True).prefers([{"prompt": "p"}], ["x"], ["y"])


def test_two_that_are_the_same_are_not_compared() -> None:
    asked: list[str] = []

    def longer(prompts: list[str], a: list[str], b: list[str]) -> list[float]:
        asked.extend(a)
        return [float(len(one) > len(other)) for one, other in zip(a, b, strict=True)]

    judge = Judge(longer, "longer", pairwise=True)
    rows = [{"prompt": prompt} for prompt in "pqr"]
    assert judge.prefers(rows, ["x", "same", "yyy"], ["xx", "same", "y"]) == [0.0, 0.5, 1.0]
    assert "same" not in asked
    asked.clear()
    assert judge.prefers(rows[:1], ["x"], ["x"]) == [0.5]
    assert asked == []
