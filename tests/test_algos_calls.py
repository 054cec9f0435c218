"""Somebody else's function: within a time, again where it raised, and never a score that it did not give."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from tiny import same_weights, tiny_policy
from tiny_runs import run

from algos import REINFORCE, UserError
from algos.engine.calls import LONGEST, GuardedReward, RewardCalls, RewardError, TimeUp, within
from algos.engine.rewards import call_reward
from eval.tasks.materials import Scorer

ROWS = [{"prompt": "a", "words": ["x"]}, {"prompt": "b", "words": ["y"]}]
ONCE = RewardCalls(reward_retries=0)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("algos.engine.calls.FIRST_PAUSE", 0.001)


def call(function: Callable[..., Any], calls: RewardCalls = ONCE, **options: Any) -> list[float]:
    return call_reward(GuardedReward(function, calls), ROWS, [" good", " bad"], [[1], [2]], **options)


class Broken:
    """Objects that fail wherever they are touched."""

    class Length(list):  # type: ignore[type-arg]
        def __len__(self) -> int:
            raise RuntimeError("no length")

    class List:
        def tolist(self) -> list[float]:
            raise MemoryError

    class Number(float):
        def __float__(self) -> float:
            raise ValueError("no number")

        def __repr__(self) -> str:
            raise ValueError("no words")


def recursive(**_: Any) -> Any:
    return recursive(**_)


def raising(error: BaseException) -> Callable[..., Any]:
    def my_reward(**_: Any) -> Any:
        raise error

    return my_reward


def returning(value: Any) -> Callable[..., Any]:
    return lambda **_: value


FAULTS: dict[str, Callable[..., Any]] = {
    **{f"raises {type(error).__name__}": raising(error) for error in (
        ValueError("two\nlines"), KeyError("x"), ZeroDivisionError(), TypeError("t"), AttributeError("a"), IndexError(),
        MemoryError(), OSError(28, "No space left on device"), ConnectionError("refused"), TimeoutError(), StopIteration(),
        AssertionError(), NotImplementedError(), SystemExit(3), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        RuntimeError("\x1b[31mred\x07"), UserError("mine"),
    )},
    "recurses for ever": recursive,
    "is a generator function": lambda **_: (lambda: (yield))(),
    "takes other arguments": lambda texts: [0.0] * len(texts),
    "takes no columns": lambda prompts, completions, completion_ids: [0.0, 0.0],
    "returns nothing": returning(None),
    "returns a number": returning(1.0),
    "returns a string": returning("ab"),
    "returns bytes": returning(b"ab"),
    "returns a map": returning({"a": 1.0, "b": 2.0}),
    "returns a set": returning({1.0, 2.0}),
    "returns a generator": lambda **_: (x for x in (1.0, 2.0)),
    "returns too few": returning([1.0]),
    "returns too many": returning([1.0, 2.0, 3.0]),
    "returns none at all": returning([]),
    "returns a scalar tensor": returning(torch.tensor(1.0)),
    "returns a column": returning(torch.ones(2, 1)),
    "returns rows": returning([[1.0], [2.0]]),
    "returns strings": returning([1.0, "2"]),
    "returns None": returning([1.0, None]),
    "returns only None": returning([None, None]),
    "returns words as bytes": returning([1.0, b"2"]),
    "returns dates": returning(np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[D]")),
    "returns NaN": returning([1.0, math.nan]),
    "returns infinity": returning([math.inf, 0.0]),
    "returns minus infinity": returning([0.0, -math.inf]),
    "returns a NaN tensor": returning(torch.tensor([1.0, torch.nan])),
    "returns an infinite array": returning(np.array([1.0, np.inf])),
    "returns complex numbers": returning([1.0, 1j]),
    "returns an endless integer": returning([1.0, 10**400]),
    "returns what 32 bits do not hold": returning([1.0, 1e39]),
    "returns an object without length": returning(Broken.Length([1.0, 2.0])),
    "returns an object that cannot be listed": returning(Broken.List()),
    "returns an object that is no number": returning([1.0, Broken.Number(1)]),
    "returns an object array": returning(np.array([1.0, None], dtype=object)),
    "sleeps": lambda **_: time.sleep(60),
    "loops": lambda **_: next(x for x in iter(int, 1)),
    "waits for a lock": lambda **_: threading.Event().wait(60),
    "waits for a socket": lambda **_: socket.socketpair()[0].recv(1),
    "waits for a process": lambda **_: os.waitpid(os.posix_spawn("/bin/sleep", ["sleep", "20"], {}), 0),
}  # fmt: skip


def test_there_are_enough_of_them() -> None:
    assert len(FAULTS) >= 56


# The timer may ring in a callback of the garbage collector's (Hypothesis sets one), where what is raised is dropped with
# this warning; it rings again.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_with_a_remedy_and_never_a_score(name: str) -> None:
    with pytest.raises(RewardError) as caught:
        call(FAULTS[name], RewardCalls(reward_timeout=0.2, reward_retries=0))
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert message.startswith(("the reward ", "what the reward "))
    assert message.endswith(".")


@pytest.mark.parametrize(
    "name", ["raises KeyError", "returns NaN", "returns too few", "returns None", "sleeps"]
)
def test_a_fault_ends_training_before_any_update(name: str) -> None:
    policy = tiny_policy()
    with pytest.raises(RewardError):
        run(REINFORCE(), policy, reward=GuardedReward(FAULTS[name], RewardCalls(0.2, 0)))
    assert same_weights(policy, tiny_policy())


# Again ---------------------------------------------------------------------------------------------------


class Flaky:
    """Fails so many times, then works."""

    def __init__(self, failures: int, error: BaseException | None = None) -> None:
        self.failures, self.error, self.calls = failures, error, 0
        self.__name__ = "flaky"

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        self.calls += 1
        if self.calls <= self.failures:
            if self.error is None:
                time.sleep(60)
            else:
                raise self.error
        return [float(len(text)) for text in completions]


@pytest.mark.parametrize("error", [ConnectionError("refused"), None], ids=["raises", "hangs"])
def test_what_raised_or_hung_is_called_again(
    error: BaseException | None, caplog: pytest.LogCaptureFixture
) -> None:
    reward = Flaky(2, error)
    assert call(reward, RewardCalls(reward_timeout=0.1, reward_retries=2)) == [5.0, 4.0]
    assert reward.calls == 3
    assert caplog.text.count("called again") == 2


def test_after_the_last_attempt_it_fails() -> None:
    reward = Flaky(3, ConnectionError("refused"))
    with pytest.raises(RewardError, match=r", called 3 times in a row, raised ConnectionError: refused"):
        call(reward, RewardCalls(reward_retries=2))
    assert reward.calls == 3


def test_a_wrong_answer_is_not_asked_for_again() -> None:
    calls: list[int] = []

    def reward(**_: Any) -> list[float]:
        calls.append(1)
        return [math.nan, 1.0]

    with pytest.raises(RewardError, match="returned nan for completion 0"):
        call(reward, RewardCalls(reward_retries=5))
    assert len(calls) == 1


def test_a_retried_reward_leaves_the_result_as_it_is() -> None:
    """Retries are no part of the result."""
    straight, again = tiny_policy(), tiny_policy()
    run(REINFORCE(learning_rate=1e-2), straight, reward=Flaky(0))
    run(REINFORCE(learning_rate=1e-2), again, reward=Flaky(2, OSError("once")))
    assert same_weights(straight, again)


# Time ----------------------------------------------------------------------------------------------------


def swallowing(**_: Any) -> list[float]:
    try:
        time.sleep(60)
    except Exception:
        return [0.0, 0.0]
    return [0.0, 0.0]


def stubborn(**_: Any) -> list[float]:
    for _ in range(2):
        with contextlib.suppress(BaseException):
            time.sleep(60)
    return [0.0, 0.0]


def test_a_function_that_catches_everything_does_not_catch_the_limit() -> None:
    begun = time.monotonic()
    with pytest.raises(RewardError, match=r"took longer than 0\.1 s.*--reward-timeout"):
        call(swallowing, RewardCalls(reward_timeout=0.1, reward_retries=0))
    assert time.monotonic() - begun < 5
    call(stubborn, RewardCalls(reward_timeout=0.1, reward_retries=0))  # rung for twice, it returned
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("limit", [1e-6, 1e-5, 1e-3])
def test_the_timer_is_taken_down(limit: float) -> None:
    """Whenever it rings: before the function begins, within it, or as it returns."""
    before = signal.getsignal(signal.SIGALRM)
    for _ in range(200):
        with contextlib.suppress(TimeUp):
            within(limit, lambda: time.sleep(limit))
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before
    time.sleep(0.01)


def test_an_alarm_of_the_callers_goes_on() -> None:
    """As pytest-timeout sets one, or who lets `train` run for an hour."""
    rung: list[float] = []
    begun = time.monotonic()
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic() - begun))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        within(10, lambda: time.sleep(0.05))
        assert 0.1 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.25
        time.sleep(0.35)
        assert len(rung) == 1
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        within(10, lambda: time.sleep(0.1))  # due meanwhile: it rings as soon as it can
        time.sleep(0.05)
        assert len(rung) == 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_without_a_limit_nothing_is_timed() -> None:
    assert within(0, lambda: signal.getitimer(signal.ITIMER_REAL)) == (0.0, 0.0)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call(returning([1.0, 2.0]))))
    thread.start()
    thread.join()
    assert found == [[1.0, 2.0]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"reward_timeout": -1.0},
        {"reward_timeout": math.inf},
        {"reward_timeout": math.nan},
        {"reward_retries": -1},
    ],
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be at least 0"):
        RewardCalls(**wrong)


def test_the_longest_limit_is_one_that_timers_take() -> None:
    assert call(returning([1.0, 2.0]), RewardCalls(reward_timeout=LONGEST)) == [1.0, 2.0]


# What it is given ----------------------------------------------------------------------------------------


def test_a_function_that_changes_its_arguments_changes_nothing() -> None:
    def vandal(**columns: Any) -> list[float]:
        for values in columns.values():
            for value in values:
                if isinstance(value, list):
                    value.clear()
            values.clear()
        return [1.0, 2.0]

    rows = [{"prompt": [{"role": "user", "content": "a"}], "words": ["x"]} for _ in range(2)]
    ids = [[1], [2]]
    assert call_reward(GuardedReward(vandal, ONCE), rows, [" good", " bad"], ids) == [1.0, 2.0]
    assert ids == [[1], [2]]
    assert rows == [{"prompt": [{"role": "user", "content": "a"}], "words": ["x"]}] * 2


@pytest.mark.parametrize(
    "number", [1, 1.5, np.float32(2), np.int64(3), Fraction(1, 4)], ids=lambda n: type(n).__name__
)
def test_numbers_are_numbers(number: Any) -> None:
    assert call(returning([number, 0.0])) == [float(number), 0.0]


def test_none_is_no_score_only_where_both_sides_allow_it() -> None:
    some = returning([None, 2.0])
    allowed = RewardCalls(reward_retries=0, allow_unscored=True)
    with pytest.raises(RewardError, match="--allow-unscored"):
        call(some, ONCE, unscored=True)
    with pytest.raises(
        RewardError, match=r"returned None for completion 0.*allows in training, but not here"
    ):
        call(some, allowed)
    first, second = call(some, allowed, unscored=True)
    assert math.isnan(first)
    assert second == 2.0
    with pytest.raises(
        RewardError, match="returned nan for completion 0"
    ):  # NaN is a mistake, not a statement
        call(returning([math.nan, 2.0]), allowed, unscored=True)


def test_a_judge_that_leaves_some_unscored_is_to_be_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is the training reward, too, that training may do without some is no help."""
    monkeypatch.setattr(Scorer, "_function", lambda *_: returning([None, 2.0]))
    allowed = RewardCalls(reward_retries=0, allow_unscored=True)
    judge = Scorer("function", "rewards.py:some", "some").judge("cpu", allowed)
    with pytest.raises(RewardError, match="name one that scores everything with --judge") as caught:
        judge.scores(ROWS, [" good", " bad"], [[1], [2]], ["", ""], [0.0, 0.0])
    assert "--allow-unscored" not in str(caught.value)


def test_a_judge_is_called_a_judge() -> None:
    with pytest.raises(RewardError, match=r"^the judge "):
        call_reward(GuardedReward(raising(KeyError("x")), ONCE, "judge"), ROWS, ["", ""], [[1], [2]])
