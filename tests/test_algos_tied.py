"""One gradient for weights that are embedding and head."""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tiny import gpt2, llama, rollouts_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from algos.engine import forward as module
from algos.engine.fast import head
from algos.engine.fast.tied import shared_gradient
from algos.engine.forward import forward
from algos.engine.rollouts import Rollouts

V, H = 7, 5


def groups() -> Rollouts:
    return rollouts_of([[3, 2, 1, 1, 2], [1, 2]], [[[1, 2, 0], [2, 0]], [[1, 1, 0], [0]]])


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    forward(model, groups(), 0.7, torch.float64).logps_PGT.square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("cached", [False, True])
def test_the_gradient_of_the_weights_is_the_sum_of_both_parts(
    cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = gpt2(16).double().eval()
    if cached:  # two lookups, of prompts and of responses
        monkeypatch.setattr(module, "direct", lambda _: None)
    found = gradients(model)
    apart = gpt2(16).double().eval()
    apart.lm_head.weight = nn.Parameter(apart.lm_head.weight.detach().clone())
    expected = gradients(apart)
    expected["transformer.wte.weight"] += expected.pop("lm_head.weight")
    torch.testing.assert_close(found, expected)


def test_untied_and_frozen_weights_are_left_alone() -> None:
    untied, frozen = llama(16).eval(), gpt2(16).eval().requires_grad_(False)
    for model in (untied, frozen):
        embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
        with shared_gradient(embedding, output) as passed:
            embedding(torch.tensor([1, 2]))
            assert len(passed) == 1
            assert passed[0] is output.weight


def world(padding: int | None) -> tuple[nn.Embedding, nn.Linear]:
    torch.manual_seed(0)
    embedding, output = nn.Embedding(V, H, padding_idx=padding), nn.Linear(H, V, bias=False)
    output.weight = embedding.weight
    return embedding, output


@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("times", [1, 2])
def test_paddings_row_gets_nothing_from_the_embedding(padding: int | None, times: int) -> None:
    """Fewer tokens than words, and more."""
    ids = torch.tensor([[2, 3, 3], [6, 2, 0]]).repeat(times, 1)
    assert (ids.numel() > V) == (times > 1)
    embedding, output = world(padding)
    (output(embedding(ids)).square().sum()).backward()
    expected, embedding.weight.grad = embedding.weight.grad, None
    with shared_gradient(embedding, output) as passed:
        rows = embedding(ids)
        (rows @ passed[-1].T).square().sum().backward()
    torch.testing.assert_close(embedding.weight.grad, expected)
    assert "forward" not in vars(embedding)


def test_a_lookup_without_gradient_inside_the_block_breaks_no_chain() -> None:
    embedding, output = world(None)
    with shared_gradient(embedding, output) as passed:
        rows = embedding(torch.tensor([1]))
        with torch.no_grad():
            embedding(torch.tensor([4]))
        (rows @ passed[-1].T).sum().backward()
    grad = embedding.weight.grad
    assert grad is not None
    assert bool(grad[1].ne(grad[0]).any())


def test_an_embedding_that_nobody_reads_the_weights_behind() -> None:
    embedding, output = world(None)
    with shared_gradient(embedding, output):
        embedding(torch.tensor([1, 1])).sum().backward()
    expected = torch.zeros(V, H)
    expected[1] = 2
    torch.testing.assert_close(embedding.weight.grad, expected)


class Whole(TorchDispatchMode):
    """The most tensors as large as the weights that were there at once, of those made inside the block."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.shape, self.known = weight.shape, {weight.untyped_storage()._cdata}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if isinstance(x, Tensor) and x.shape == self.shape:
                storage = x.untyped_storage()
                if storage._cdata not in self.known:
                    self.known.add(storage._cdata)
                    self.now += 1
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._gone, storage._cdata)
        return out

    def _gone(self, storage: int) -> None:
        self.known.discard(storage)
        self.now -= 1


@pytest.mark.parametrize("shared", [True, False])
def test_one_matrix_of_gradients_is_made(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = gpt2(50).eval()
    monkeypatch.setattr(head, "CHUNK", 70)  # a few words at a time: parts of the gradient are smaller than it
    if not shared:
        monkeypatch.setattr(module, "shared_gradient", lambda _, tied: nullcontext([tied.weight]))
    forward(model, groups(), 1.0, torch.float32)  # what is tried out once is
    with Whole(model.lm_head.weight) as whole:
        forward(model, groups(), 1.0, torch.float32).logps_PGT.sum().backward()
    assert whole.most == (1 if shared else 3)
