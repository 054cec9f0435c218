"""How somebody else's function is called: within a time, again where it raised, on copies of what it is given."""

from __future__ import annotations

import copy
import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

from algos.engine.algorithm import require
from algos.engine.errors import RunError, one_line

logger = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST = 1e9  # seconds; a system's timers take no more than some times that
FIRST_PAUSE = 0.25  # seconds before the first of the further attempts; each pause is four times the last


class RewardError(RunError):
    """A reward function raised, took too long, or returned something that is not one finite number a completion."""


@dataclass(frozen=True)
class RewardCalls:
    """How rewards and judges are called."""

    reward_timeout: float = 600.0
    """Seconds a call of a reward or judge may take; 0: any time."""
    reward_retries: int = 2
    """Further attempts after a call that raised or took too long."""
    allow_unscored: bool = False
    """Let the reward return None for responses it cannot score: they are left out of baselines and losses."""

    def __post_init__(self) -> None:
        allowed = f"at least 0 (0: any time) and at most {LONGEST:g}"
        require(0 <= self.reward_timeout <= LONGEST, "reward_timeout", allowed, self.reward_timeout)
        require(self.reward_retries >= 0, "reward_retries", "at least 0", self.reward_retries)


class GuardedReward:
    """A reward or judge (`what`) that is called as `calls` says; otherwise the function itself."""

    def __init__(self, function: Callable[..., Any], calls: RewardCalls, what: str = "reward") -> None:
        self.function, self.calls, self.what = function, calls, what
        self.parameter_count = int(getattr(function, "parameter_count", 0))
        self.__name__ = str(getattr(function, "__name__", type(function).__name__))

    # Positional alone: the keywords are the data's columns, of which one may be called `self`.
    def __call__(self, /, **keywords: Any) -> Any:
        """What the function returns. Raises RewardError after the last attempt that raised or took too long."""
        pause, left = FIRST_PAUSE, self.calls.reward_retries
        while True:
            try:
                return within(self.calls.reward_timeout, lambda: self.function(**copied(keywords)))
            except TimeUp as error:
                cause: BaseException = error
                reason = (
                    f"took longer than {self.calls.reward_timeout:g} s. Make it faster, or raise --reward-timeout "
                    "(in Python: GuardedReward(reward, RewardCalls(reward_timeout=…)))"
                )
            except (Exception, SystemExit) as error:
                cause = error
                reason = f"raised {type(error).__name__}: {one_line(error)}. It is called with keywords {', '.join(keywords)}"
            if not left:
                attempts = self.calls.reward_retries + 1
                times = f", called {attempts} times in a row," if attempts > 1 else ""
                raise RewardError(f"the {self.what} {self.__name__}{times} {reason}.") from cause
            logger.warning("the %s %s %s; called again in %g s.", self.what, self.__name__, reason, pause)
            time.sleep(pause)
            pause, left = 4 * pause, left - 1


def guarded(function: Callable[..., Any]) -> GuardedReward:
    """The function called as `RewardCalls()` says, where nothing else was said of it."""
    return function if isinstance(function, GuardedReward) else GuardedReward(function, RewardCalls())


def copied(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of what is handed out: a function that changes its arguments must not change the data."""
    return {name: copy.deepcopy(values) for name, values in keywords.items()}


class TimeUp(BaseException):
    """Not an Exception, so that a function which catches those does not swallow it."""


def within(seconds: float, function: Callable[[], T]) -> T:
    """What the function returns. Raises TimeUp where it takes longer. 0: no limit.

    By a timer signal, which interrupts Python code, sleep, sockets and locks, but not C code that neither
    returns nor looks for signals. Without a limit where there is no such timer (Windows) and outside the
    main thread; every run trains in the main thread of its process.
    """
    usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not seconds or not usable:
        return function()

    armed, start = True, time.monotonic()

    def ring(_: int, __: FrameType | None) -> None:
        if armed:
            raise TimeUp

    # The caller may have set an alarm of its own: it waits, and goes on with what is left of its time.
    theirs, interval = signal.getitimer(signal.ITIMER_REAL)
    before = signal.signal(signal.SIGALRM, ring)
    # A call rather than a context manager: the timer may ring as soon as it is set, and then no line may lie
    # between it and the `try` that takes it down.
    try:
        # Again and again from then on: a bare `except:` may swallow the first.
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
        return function()
    finally:
        armed = False  # first, so that nothing rings while the timer is taken down
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)
        if theirs:
            left = theirs - (time.monotonic() - start)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-6), interval)
