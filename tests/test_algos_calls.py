"""Somebody else's function: within a time, again where it raised, and never a score that it did not give."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from pages import page
from reward_faults import FAULTS, raising, returning
from tiny import same_weights, tiny_policy
from tiny_runs import run

from algos import REINFORCE, RunError, UserError
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


def test_the_docs_count_them() -> None:
    assert f"| {len(FAULTS)} kinds: {len(FAULTS)} one-line errors" in page("reliability.md")


# The timer may ring in a callback of the garbage collector's (Hypothesis sets one), where what is raised is dropped with
# this warning; it rings again.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_with_a_remedy_and_never_a_score(name: str) -> None:
    with pytest.raises(RewardError) as caught:
        call(FAULTS[name], RewardCalls(reward_timeout=0.2, reward_retries=0))
    message, who = str(caught.value), f"the reward {FAULTS[name].__name__}"
    assert isinstance(caught.value, RunError)
    assert "\n" not in message
    assert message.isprintable()
    assert message.startswith((who, f"what {who}"))
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
