"""What is logged of an iteration, and how much of the returns' variance the values explain."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_runs import ALGORITHMS, SAMPLING, first_batch, run

from algos.engine.monitor import explained_variance


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
