"""Fitting the machine: parts that are halved when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from algos.engine.errors import RunError, UserError

T = TypeVar("T")

MAX_TOKENS = 2**14
"""That go through a model at once."""
CACHED_TOKENS = 2**12
"""And without gradient on a CPU, where more would only leave its caches."""

SHORTER = "Lower --max-new-tokens or --group-size, or take shorter prompts."
ADAPTERS = "Train adapters with --lora."
LIGHTER = f"Pass --gradient-checkpointing. {ADAPTERS} {SHORTER}"


def tokens_at_once(device: torch.device, *, backward: bool) -> int:
    """How many tokens go through a model together, before memory has its say."""
    return CACHED_TOKENS if device.type == "cpu" and not backward else MAX_TOKENS


class Portions:
    """How much goes through the model at once, by purpose: as asked for, until memory runs out.

    What ran out is done again from its beginning with half as much, and later calls begin with what fitted.
    Results do not depend on the portion but by rounding.
    """

    def __init__(self) -> None:
        self.limits: dict[str, int] = {}
        """The largest portions that are tried, where memory ran out, by purpose."""

    def run(self, purpose: str, size: int, attempt: Callable[[int], T], remedy: str) -> T:
        """`attempt(portion)` with the largest portion ≤ `size` that memory takes.

        Raises RunError with the remedy where not even a portion of 1 fits.
        """
        portion = max(1, min(size, self.limits.get(purpose, size)))
        while True:
            try:
                return attempt(portion)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if portion == 1:
                    raise RunError(
                        f"out of memory in {purpose} with the smallest portion. {remedy}"
                    ) from None
            # Here, outside the handler, the traceback is gone, and with it what the failed attempt held.
            portion = self.limits[purpose] = portion // 2
            _release()


@contextmanager
def out_of_memory_as(kind: type[UserError | RunError], message: str) -> Iterator[None]:
    """The block whose memory is there whole or not at all. Raises `kind(message)` where it runs out."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        # Made here, not passed in: a frame of its own traceback would hold it, and so all that the block did.
        raise kind(message) from None


def out_of_memory(error: BaseException) -> bool:
    """Whether torch could not allocate memory, on whatever device."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and should_reduce_batch_size(error)
    )


def _release() -> None:
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
