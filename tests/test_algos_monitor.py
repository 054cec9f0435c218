"""What is logged of an iteration, and how much of the returns' variance the values explain."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import rollouts_of
from tiny_runs import ALGORITHMS, PROMPTS, SAMPLING, count_b, first_batch, run

from algos import DPO, TrainState
from algos.engine.monitor import describe, explained_variance, numbers


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_must_always_be_logged_is(name: str) -> None:
    row = run(ALGORITHMS[name], budget="1iterations").rows[0]
    always = {
        "loss",
        "learning_rate",
        "gradient_norm",
        "length/train",
        "eos_rate/train",
        "entropy/train",
        "flops",
        "seconds",
    }
    own = {
        "reinforce": {"reward/train", "kl/train", "sampler_gap_max", "advantage_std"},
        "value": {"explained_variance", "value_loss"},
        "ppo": {"clip_fraction", "approx_kl", "ratio_max", "explained_variance", "value_loss", "kl/train"},
        "dpo": {"chosen_logps", "rejected_logps", "margin", "accuracy"},
    }
    assert always | own[name.removesuffix("-separate")] <= row.keys()
    assert all(isinstance(value, (int, float)) for value in row.values())


def test_the_kl_of_sampled_groups_is_logged_without_log_probabilities_of_their_own() -> None:
    """On-policy DPO asks for none: those of the sampler are there."""
    kept: list[TrainState] = []
    data: dict[str, Any] = {"prompts": PROMPTS, "pairs": None, "reward": count_b}
    rows = run(DPO(learning_rate=1e-2, on_policy=True), hook=lambda state, _: kept.append(state), **data).rows
    assert kept[-1].prepared is not None
    assert kept[-1].prepared.logps_PGT is None
    assert rows[0]["kl/train"] == pytest.approx(0, abs=1e-4)
    assert rows[2]["kl/train"] > 1e-3
    batch = replace(kept[-1].prepared, scores_PG=None)
    delta_PGT = batch.sampler_logps_PGT - batch.ref_logps_PGT
    assert describe(batch, batch, {})["kl/train"] == pytest.approx(
        float(delta_PGT[batch.mask_PGT].sum()) / (batch.P * 2)
    )
    assert "kl/train" not in run(ALGORITHMS["dpo"], budget="1iterations").rows[0]


def test_explained_variance_by_hand() -> None:
    returns = torch.tensor([1.0, 3.0, 5.0])
    assert float(explained_variance(returns, returns)) == 1
    assert float(explained_variance(returns + 7, returns)) == 1  # a constant error explains all the variance
    assert float(explained_variance(torch.full((3,), 3.0), returns)) == 0
    assert float(explained_variance(torch.tensor([5.0, 3.0, 1.0]), returns)) == pytest.approx(-3)


def test_where_returns_do_not_vary_no_variance_is_explained() -> None:
    """Nor where they do by rounding alone, by which a quotient would be millions."""
    values = torch.tensor([0.1, 0.2, 0.3])
    for returns in (torch.ones(3), torch.zeros(3), torch.tensor([1.0, 1.0 + 1e-7, 1.0 - 1e-7])):
        assert math.isnan(explained_variance(values, returns))
    assert float(explained_variance(values, torch.tensor([1.0, 1.001, 1.002]))) == pytest.approx(
        -9800, rel=1e-2
    )


@pytest.mark.parametrize("name", ["ppo", "value"])
def test_explained_variance_is_of_tokens_that_carry_loss(name: str) -> None:
    """Of a greedy prefix no value is learned."""
    sampling = replace(SAMPLING, greedy_prefix=2)
    prepared, row = first_batch(ALGORITHMS[name], sampling=sampling)
    mask = prepared.loss_mask_PGT
    assert not torch.equal(mask, prepared.learnable_PGT)
    values, returns = (x[mask] for x in prepared.filled("values_PGT", "returns_PGT"))
    assert row["explained_variance"] == pytest.approx(float(explained_variance(values, returns)), nan_ok=True)


def test_tensors_of_a_kind_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "a": torch.tensor(0.1), "plain": 0.1, "b": torch.tensor([2.5]), "double": torch.tensor(0.1, dtype=torch.float64),
        "count": torch.tensor(3), "true": torch.tensor(True), "c": torch.tensor(float("nan")),
    }  # fmt: skip
    expected, read, whole = {name: float(value) for name, value in row.items()}, [], torch.stack
    monkeypatch.setattr(torch, "stack", lambda given: read.append(len(given)) or whole(given))
    found = numbers(row)
    assert sorted(read) == [1, 1, 1, 3]
    assert list(found) == list(row)
    assert str(found) == str(expected)  # to the last digit, NaN included
    assert {type(value) for value in found.values()} == {float}


def test_a_selection_by_mask_is_one_by_indices() -> None:
    batch = rollouts_of([[1], [2, 1], [1, 1]], [[[1, 2]], [[2]], [[2, 2]]])
    found, expected = batch.select(torch.tensor([True, False, True])), batch.select(torch.tensor([0, 2]))
    assert torch.equal(found.input_ids_BS(), expected.input_ids_BS())
    assert batch.select(torch.zeros(3, dtype=torch.bool)).P == 0
