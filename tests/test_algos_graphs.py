"""Decoding in tensors that stay where they are: the draws of the other way, rows that leave, nothing held. On a CPU, where
each step is made anew; tests/test_algos_gpu.py has those that are recorded."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import pytest
import torch
from known import KNOWN, PROMPTS, a_policy, with_loud_adapter
from tiny import word_tokenizer
from torch import Tensor

from algos import Policy, Sampling, sample
from algos.engine import decoding
from algos.engine.fast import graphs
from algos.engine.fast.graphs import GraphStepper

SAMPLING = Sampling(max_new_tokens=10, group_size=6)


class Watched(GraphStepper):
    """Remembers how many rows it made room for, and whether it is still there."""

    rows: list[int]
    alive: list[weakref.ref[Any]]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, SAMPLING.max_new_tokens)
        self.alive.append(weakref.ref(self))

    def _settle(self, rows: Tensor) -> None:
        self.rows.append(len(rows))
        super()._settle(rows)


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    """From now on decoding is in place, of few rows as of many."""
    monkeypatch.setattr(graphs, "FEW", 2)
    monkeypatch.setattr(Watched, "rows", [], raising=False)
    monkeypatch.setattr(Watched, "alive", [], raising=False)
    monkeypatch.setattr(decoding, "LayerStepper", Watched)
    return Watched


def same(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sample(policy, PROMPTS, SAMPLING, 0)
    monkeypatch.undo()
    expected = sample(policy, PROMPTS, SAMPLING, 0)
    assert torch.equal(found.response_ids_PGT, expected.response_ids_PGT)
    torch.testing.assert_close(found.sampler_logps_PGT, expected.sampler_logps_PGT, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("kind", KNOWN)
def test_the_same_samples(kind: str, in_place: type[Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = in_place.rows
    same(a_policy(kind), monkeypatch)
    assert rows[0] == len(PROMPTS) * SAMPLING.group_size
    # Made anew whenever half of them are gone, not with every one that goes.
    assert all(after <= before / 2 for before, after in itertools.pairwise(rows))


def test_rows_did_leave(in_place: type[Watched]) -> None:
    sample(a_policy("llama"), PROMPTS, SAMPLING, 0)
    assert len(in_place.rows) > 2


def test_few_rows_stay_in_place(in_place: type[Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "FEW", len(PROMPTS) * SAMPLING.group_size)
    rows = in_place.rows
    same(a_policy("llama"), monkeypatch)
    assert rows == [len(PROMPTS) * SAMPLING.group_size]


def test_the_same_with_adapters(in_place: type[Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = in_place.rows
    same(Policy(with_loud_adapter(), word_tokenizer("a b c d e f g h i j"), dtype="fp32"), monkeypatch)
    assert rows[0] == len(PROMPTS) * SAMPLING.group_size


def test_nothing_is_held(in_place: type[Watched]) -> None:
    """Without Python's collector, for which a GPU's memory does not wait."""
    policy = a_policy("qwen2")
    gc.disable()
    try:
        sample(policy, PROMPTS, SAMPLING, 0)
        assert [alive() for alive in in_place.alive] == [None]
    finally:
        gc.enable()
