"""Rewards that do what somebody else's function may do wrong."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from algos import UserError


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
    """Calls itself until Python's stack is full."""
    return recursive(**_)


def raising(error: BaseException) -> Callable[..., Any]:
    """A reward that raises it."""

    def my_reward(**_: Any) -> Any:
        raise error

    return my_reward


def returning(value: Any) -> Callable[..., Any]:
    """A reward that returns it, whatever it is asked."""
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
    "returns tensors of one element": returning([torch.ones(1), torch.ones(1)]),
    "returns tensors of which one is NaN": returning([torch.tensor(1.0), torch.tensor(torch.nan)]),
    "returns words as arrays": returning([np.array("1"), 1.0]),
    "sleeps": lambda **_: time.sleep(60),
    "loops": lambda **_: next(x for x in iter(int, 1)),
    "waits for a lock": lambda **_: threading.Event().wait(60),
    "waits for a socket": lambda **_: socket.socketpair()[0].recv(1),
    "waits for a process": lambda **_: os.waitpid(os.posix_spawn("/bin/sleep", ["sleep", "20"], {}), 0),
}  # fmt: skip
"""What is wrong → a reward that does it."""
