"""Decoding in tensors that stay where they are, so that a GPU can replay a step that it has recorded.

A step of a few rows launches hundreds of kernels, and the GPU is done with each before Python has launched the next.
Recorded as a CUDA graph they are launched at once, and a step takes only as long as its kernels.
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

FEW = 64
"""Rows in place of which those that have left stay to the end: a step reads all weights however many rows it has, so that
fewer take hardly less time, while to record it anew takes as long as a dozen steps."""


class GraphStepper(LayerStepper):
    """A `LayerStepper` of at most `tokens` steps. Attention reads the room for later tokens too, with weight 0."""

    live: Tensor
    """[B] which of the rows in place are still in the batch."""
    token: Tensor
    """[rows in place] the last token of each; an old one in rows that have left the batch."""
    place: Tensor
    """[1] where the next keys and values are written."""
    replay: GraphReplay

    def __init__(
        self, layers: DirectModel, ids_PL: Tensor, mask_PL: Tensor, group_B: Tensor, tokens: int
    ) -> None:
        super().__init__(layers, ids_PL, mask_PL, group_B)
        # Under autocast the modules would keep copies of the weights beside those of the functions.
        self.reader = self.bare
        self.room = -(-(ids_PL.shape[1] + tokens) // ALIGNED) * ALIGNED

    def prefill(self) -> Tensor:
        logits_BV = super().prefill()
        self._settle(torch.arange(len(logits_BV), device=logits_BV.device))
        return logits_BV

    def step(self, token_B: Tensor) -> Tensor:
        self.token[self.live] = token_B
        logits_BV = self.replay(self._step)
        self.tokens += 1
        return logits_BV[self.live]

    def keep(self, rows: Tensor) -> None:
        """Rows that leave still go through the layers with the others, until they are half of more than `FEW` rows in
        place."""
        self.live = self.live[rows]
        if len(self.token) > FEW and 2 * len(self.live) <= len(self.token):
            self._settle(self.live)

    def _settle(self, rows: Tensor) -> None:
        """Copies these of the rows in place to new tensors, over which the step is recorded anew."""
        self.replay = GraphReplay(rows.device)
        self.live = torch.arange(len(rows), device=rows.device)
        self.token = torch.zeros_like(self.live)
        self.place = torch.tensor([self.tokens], device=rows.device)
        self.position = self.position[rows]
        self.bias = self._with_room(self.bias[rows], -1, -torch.inf)
        for states in (self.keys, self.values):
            # Zeros: attention multiplies the room's values by 0, which must not give NaN.
            states[:] = [self._with_room(whole[rows], 2, 0.0) for whole in states]

    def _with_room(self, known: Tensor, dim: int, filled: float) -> Tensor:
        """A copy in attention's precision, `self.room` long in this dimension: the tokens there are, then `filled`."""
        shape = list(known.shape)
        shape[dim] = self.room
        whole = known.new_full(shape, filled, dtype=multiplied_in(known.device.type, known.dtype))
        whole.narrow(dim, 0, self.tokens).copy_(known.narrow(dim, 0, self.tokens))
        return whole

    def _step(self) -> Tensor:
        """One token more in every row in place → logits [rows in place, V]; all on the device, and in place."""
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


class GraphReplay:
    """Runs the same work at every call and returns its result, which the next call overwrites.

    On a GPU the second call records the work as a CUDA graph, and from then on the graph is replayed. The work is given
    at every call and not kept: a reference to it would close a cycle with the object that does it, and keep that
    object's copies of weights in memory until Python's collector runs. Only one can be in use at a time: all share one
    pool of memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.begun = False
        self.recording: tuple[torch.cuda.CUDAGraph, Tensor] | None = None

    def __call__(self, work: Callable[[], Tensor]) -> Tensor:
        if self.device.type != "cuda":
            return work()
        if not self.begun:
            # On the recording's stream and in its pool, so that the recording finds what libraries set up for a stream,
            # and enough memory: a recording that runs out of memory cannot be ended.
            pool, _ = _memory(self.device)
            with _on_side_stream(self.device), torch.cuda.use_mem_pool(pool, self.device):
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
        with _on_side_stream(self.device):
            # Not torch's context manager, which first returns all free memory to the system.
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
    """The pool that all recordings share, and an empty recording that keeps it in use. From a pool of its own, what one
    recording has freed would go to others only when memory is full. Without the empty recording torch's allocator of
    pinned memory would not let a second recording use the pool."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), _on_side_stream(device), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "The CUDA Graph is empty"
        pool = torch.cuda.MemPool()
        _begin(graph, pool)
        graph.capture_end()
    return pool, graph


def _begin(graph: torch.cuda.CUDAGraph, pool: torch.cuda.MemPool) -> None:
    handle: Any = pool.id
    graph.capture_begin(handle, capture_error_mode="thread_local")


@contextmanager
def _on_side_stream(device: torch.device) -> Iterator[None]:
    """The block runs on a stream of its own, after all earlier work of the current stream and before all later."""
    stream, current = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)
