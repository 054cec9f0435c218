"""Which settings are tried next: within their space, a function of what came before, and the best is what is chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from algos import PPO
from eval.tuning.search import Choices, Range, Space
from eval.tuning.tries import Try, best, next_settings

SPACE: Space = {
    "learning_rate": Range(1e-5, 1e-1, log=True),
    "ppo_epochs": Range(1, 16, log=True),
    "clip_range": Range(0.1, 0.9),
    "kl_control": Choices(("fixed", "adaptive")),
}


def tried(number: int, value: float | None, **settings: Any) -> Try:
    return Try(number, settings, "failed" if value is None else "done", value, "", 0.0, 0.0)


def suggested(number: int, history: Sequence[Try] = (), name: str = "ppo") -> dict[str, Any]:
    return next_settings(PPO(), name, number, SPACE, history)


def test_the_first_try_is_the_arm_as_it_is() -> None:
    assert suggested(1) == {"learning_rate": 1e-5, "ppo_epochs": 4, "clip_range": 0.2, "kl_control": "fixed"}


def test_suggestions_lie_in_the_space_and_can_be_read() -> None:
    for number in range(2, 40):
        found = suggested(number)
        assert list(found) == list(SPACE)
        assert all(found[setting] in values for setting, values in SPACE.items())
        assert float(f"{found['learning_rate']:.3g}") == found["learning_rate"]
        assert isinstance(found["ppo_epochs"], int)
        PPO(**found)


def test_a_suggestion_is_a_function_of_arm_number_and_what_came_before() -> None:
    history = [tried(n, value, **suggested(n)) for n, value in enumerate((0.1, 0.5, None, 0.2, 0.3), 1)]
    assert suggested(2) == suggested(2, history)  # drawn at random: nothing that ran matters
    assert suggested(2) != suggested(3)
    assert suggested(2) != suggested(2, name="other")
    assert suggested(6, history) == suggested(6, history)
    other = [*history[:1], replace(history[1], value=0.0), *history[2:]]
    assert suggested(6, history) != suggested(6, other)


def test_it_learns_where_the_good_settings_are() -> None:
    """A peak at learning rate 1e-3: later suggestions are nearer to it than those of the start."""
    history: list[Try] = []
    for number in range(1, 25):
        settings = suggested(number, history)
        history.append(tried(number, -((math.log10(settings["learning_rate"]) + 3) ** 2), **settings))
    distance = [abs(math.log10(t.settings["learning_rate"]) + 3) for t in history]
    assert sum(distance[-8:]) / 8 < 0.5 * sum(distance[:8]) / 8
    chosen = best(history)
    assert chosen is not None
    assert 3e-4 < chosen.settings["learning_rate"] < 3e-3


def test_the_best_is_the_highest_and_of_equal_ones_the_earliest() -> None:
    made = [tried(1, 0.2), tried(2, None), tried(3, 0.7), tried(4, 0.7), tried(5, 0.1)]
    assert best(made) == made[2]
    assert best([tried(1, None)]) is None
    # The same eight scores, added in another order.
    made = [
        tried(1, sum([0.5, 0.5, 0.6, 0.1, 0, 0.8, 0.7, 0.6])),
        tried(2, sum([0.5, 0.5, 0.6, 0.1, 0.1, 0.8, 0.7, 0.5])),
    ]
    assert made[0].value != made[1].value
    assert best(made) == made[0]
