"""One token a step in tensors that stay where they are, so that a GPU can repeat a step that it has recorded.

A step of a few rows starts hundreds of kernels, each of which a GPU is done with before Python has started the next.
Recorded as a CUDA graph they all start at once: a step then takes as long as its kernels do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from algos.engine.fast.attention import attend_from_one
from algos.engine.fast.layers import DirectModel
from algos.engine.fast.products import multiplied_in
from algos.engine.fast.stepping import LayerStepper
from algos.engine.inputs import ALIGNED


class GraphStepper(LayerStepper):
    """Through a model's layers, at most `tokens` times. Attention reads the room for later tokens too, at weight 0."""

    live: Tensor
    """Which of the rows in place are the batch."""
    token: Tensor
    """The last of each row in place; of one that is not kept any more, some old one."""
    place: Tensor
    """[1]: where keys and values are written next."""
    again: _Again

    def __init__(
        self, layers: DirectModel, ids_PL: Tensor, mask_PL: Tensor, group_B: Tensor, tokens: int
    ) -> None:
        super().__init__(layers, ids_PL, mask_PL, group_B)
        # The modules would have autocast keep copies of the weights beside those that the functions have.
        self.reader = self.bare
        self.room = -(-(ids_PL.shape[1] + tokens) // ALIGNED) * ALIGNED

    def prefill(self) -> Tensor:
        logits_BV = super().prefill()
        self._settle(torch.arange(len(logits_BV), device=logits_BV.device))
        return logits_BV

    def step(self, token_B: Tensor) -> Tensor:
        self.token[self.live] = token_B
        logits_BV = self.again(self._step)
        self.tokens += 1
        return logits_BV[self.live]

    def keep(self, rows: Tensor) -> None:
        """Rows that are not kept go through the layers with the others until they are half of them."""
        self.live = self.live[rows]
        if 2 * len(self.live) <= len(self.token):
            self._settle(self.live)

    def _settle(self, rows: Tensor) -> None:
        """Makes these of the rows in place the batch, in tensors of its own."""
        self.again = _Again(rows.device)
        self.live = torch.arange(len(rows), device=rows.device)
        self.token = torch.zeros_like(self.live)
        self.place = torch.tensor([self.tokens], device=rows.device)
        self.position = self.position[rows]
        self.bias = self._with_room(self.bias[rows], -1, -torch.inf)
        for states in (self.keys, self.values):
            # Zeros, as attention multiplies by what it does not read.
            states[:] = [self._with_room(whole[rows], 2, 0.0) for whole in states]

    def _with_room(self, known: Tensor, dim: int, filled: float) -> Tensor:
        """In attention's precision, `filled` behind the tokens that are there."""
        shape = list(known.shape)
        shape[dim] = self.room
        whole = known.new_full(shape, filled, dtype=multiplied_in(known.device.type, known.dtype))
        whole.narrow(dim, 0, self.tokens).copy_(known.narrow(dim, 0, self.tokens))
        return whole

    def _step(self) -> Tensor:
        """All of it on the device, and in place."""
        self.bias.index_fill_(-1, self.place, 0.0)
        x_BH, rotation = self.bare.embed(self.token, self.position)
        for layer, keys, values in zip(self.bare.layers, self.keys, self.values, strict=True):
            x_BH = layer(x_BH, rotation, partial(self._attend_in_place, keys, values))
        self.position.add_(1)
        self.place.add_(1)
        return self.bare.head(self.bare.norm(x_BH))

    def _attend_in_place(
        self, keys: Tensor, values: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Tensor:
        for states, new in ((keys, key), (values, value)):
            states.index_copy_(2, self.place, new[:, :, None].to(states.dtype))
        return attend_from_one(query, keys, values, self.bias, scale)


class _Again:
    """Does one and the same work whenever it is called, and returns what it gives, until the next time: on a GPU, from
    the second time on, as it was then recorded. It is given the work each time, lest it hold who does it, and with that
    all copies of weights, for as long as that holds it. One at a time is in use: they share their memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.begun = False
        self.recording: tuple[torch.cuda.CUDAGraph, Tensor] | None = None

    def __call__(self, work: Callable[[], Tensor]) -> Tensor:
        if self.device.type != "cuda":
            return work()
        if not self.begun:
            # On the stream and in the memory of the recording: what libraries set up for a stream is there by then,
            # and so is the memory, of which there may not be enough. A recording that runs out of it can't be ended.
            pool, _ = _memory(self.device)
            with _aside(self.device), torch.cuda.use_mem_pool(pool, self.device):
                given = work()
            self.begun = True
            return given
        if self.recording is None:
            self.recording = self._recorded(work)
        graph, given = self.recording
        graph.replay()
        return given

    def _recorded(self, work: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph, (pool, _) = torch.cuda.CUDAGraph(), _memory(self.device)
        with _aside(self.device):
            # Not by torch's context manager, which first gives back all free memory, to be asked for again.
            _begin(graph, pool)
            try:
                return graph, work()
            finally:
                graph.capture_end()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@cache
def _memory(device: torch.device) -> tuple[torch.cuda.MemPool, torch.cuda.CUDAGraph]:
    """What all recordings share: what one had to itself would be free for others only when memory is full. An empty
    recording keeps it, without which torch's allocator of pinned memory would not let a second one use it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), _aside(device), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "The CUDA Graph is empty"
        pool = torch.cuda.MemPool()
        _begin(graph, pool)
        graph.capture_end()
    return pool, graph


def _begin(graph: torch.cuda.CUDAGraph, pool: torch.cuda.MemPool) -> None:
    handle: Any = pool.id
    graph.capture_begin(handle, capture_error_mode="thread_local")


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """On a stream of its own, between what is done before on the current one and what is done after."""
    stream, current = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)
