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
MAX_ACTIVATIONS = 2**29
"""Numbers kept for a backward pass: 2 GiB in fp32."""

BESIDE_TORCH = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # what cuBLAS says where there is no room for its handle
)
"""In errors about memory that torch's allocator does not give: the driver's, and libraries' workspaces."""

SHORTER = "Lower --max-new-tokens or --group-size, or take shorter prompts."
ADAPTERS = "Train adapters with --lora."
LIGHTER = f"Pass --gradient-checkpointing. {ADAPTERS} {SHORTER}"


def tokens_at_once(device: torch.device, *, backward: bool) -> int:
    """How many tokens go through a model together, before memory has its say."""
    return CACHED_TOKENS if device.type == "cpu" and not backward else MAX_TOKENS


def activations_at_once(device: torch.device) -> int:
    """How many numbers a forward pass may keep for its backward, before memory has its say.

    On a GPU where they take a quarter of what this process may have in fp32, an eighth in bf16: weights, gradients,
    optimizer and reference need most of the rest. With fewer, batches would be split that fit, and each part starts
    all kernels again, which takes most of a small part's time (docs/benchmarks.md).
    """
    if device.type != "cuda":
        return MAX_ACTIVATIONS
    total = torch.cuda.get_device_properties(device).total_memory
    share = torch.cuda.get_per_process_memory_fraction(device.index)
    return max(MAX_ACTIVATIONS, int(share * total) // 16)


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
            release()


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
    """Whether torch, or a library of the GPU's, could not allocate memory, on whatever device."""
    from accelerate.utils.memory import should_reduce_batch_size

    if not isinstance(error, RuntimeError) or isinstance(error, RunError):  # which says already what to do
        return False
    full = isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
    return full or any(words in str(error) for words in BESIDE_TORCH)


def release() -> None:
    """Gives back what nothing uses any more: to the GPU, whose other processes cannot have what torch keeps for later."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
