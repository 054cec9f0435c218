"""The gradient of a weight that is both embedding and head, as one matrix.

The head's part of it is a whole matrix, the embedding's some rows. autograd would make two whole matrices of them, the
second zero but for those rows, and add them: with a vocabulary of 50,000 as much memory again, which takes as long to
fill as a layer to compute. Here the embedding's lookup passes the weight on to the head, so that the head's gradient
comes back through the lookup, which adds its rows to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@contextmanager
def shared_gradient(embedding: Any, head: nn.Linear) -> Iterator[list[Tensor]]:
    """The block in which a text is embedded. After it the last of the list is the weight [V, H] for the head to use."""
    passed = [head.weight]
    tied = type(embedding) is nn.Embedding and embedding.weight is head.weight
    if not (tied and head.weight.requires_grad and torch.is_grad_enabled()):
        yield passed
        return

    def lookup(ids: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # a weight passed on from here would send back no gradient
            return F.embedding(ids, head.weight)
        rows: Tensor
        rows, weight = _Lookup.apply(passed[-1], ids, embedding.padding_idx)
        passed.append(weight)
        return rows

    embedding.forward = lookup
    try:
        yield passed
    finally:
        del embedding.forward  # the class's own shows again


class _Lookup(torch.autograd.Function):
    """Rows [..., H] of a weight [V, H], and the weight itself for later use."""

    @staticmethod
    def forward(ctx: Any, weight_VH: Tensor, ids: Tensor, padding: int | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids)
        ctx.padding, ctx.shape = padding, weight_VH.shape
        ctx.set_materialize_grads(False)
        return F.embedding(ids, weight_VH), weight_VH.view_as(weight_VH)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_rows: Tensor | None, d_weight_VH: Tensor | None) -> tuple[Tensor | None, ...]:
        """The rows are added in place: nothing else uses the gradient that the head made."""
        if d_rows is not None:
            (ids,) = ctx.saved_tensors
            if d_weight_VH is None:
                d_weight_VH = d_rows.new_zeros(ctx.shape)
            _add_rows(d_weight_VH, ids.flatten(), d_rows.flatten(0, -2).to(d_weight_VH.dtype), ctx.padding)
        return d_weight_VH, None, None


def _add_rows(sums_VH: Tensor, ids_N: Tensor, rows_NH: Tensor, padding: int | None) -> None:
    """Adds each row to that of its token, except the padding token's."""
    if len(sums_VH) <= len(ids_N):
        # For a small vocabulary a whole matrix takes a tenth of the time that adding in place takes.
        none = -1 if padding is None else padding
        sums_VH += torch.ops.aten.embedding_dense_backward(rows_NH, ids_N, len(sums_VH), none, False)
        return
    if padding is not None:
        rows_NH = rows_NH.masked_fill((ids_N == padding)[:, None], 0.0)
    sums_VH.index_put_((ids_N,), rows_NH, accumulate=True)
