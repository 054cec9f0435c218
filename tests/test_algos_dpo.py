"""DPO's losses in closed form: at the reference, at π*, and where each comes to rest. Float64, enumerated."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from tiny import Table
from torch import Tensor

from algos import DPO, REINFORCE
from algos.engine.algorithm import Outputs
from algos.engine.rollouts import Rollouts
from algos.losses import dpo_loss, sequence_logps

BETA = 0.3


@pytest.fixture(scope="module")
def table() -> Table:
    return Table()


def outputs_of(table: Table, index: list[list[int]]) -> Outputs:
    logps_PGT = table.logps(table.logits)[torch.tensor(index)]
    return Outputs(logps_PGT, torch.zeros_like(logps_PGT))


@pytest.mark.parametrize("seed", range(5))
def test_no_policy_exceeds_the_bound_and_the_gap_is_the_distance_to_the_optimum(seed: int) -> None:
    table = Table(seed=seed)
    log_optimum, log_z = table.optimum(BETA)
    logp = table.logps(table.logits).sum(-1).detach()
    prepared, _ = REINFORCE(beta=BETA, baseline="none").prepare(
        table.rollouts([[i] for i in range(len(table.responses))]), {}
    )
    assert prepared.advantages_PGT is not None
    objective = (logp.exp() * prepared.advantages_PGT[:, 0, 0]).sum()
    gap = float(BETA * log_z - objective)
    assert gap > 0
    assert gap == pytest.approx(float(BETA * (logp.exp() * (logp - log_optimum)).sum()))


def soft_pairs(table: Table) -> tuple[Tensor, Tensor, Tensor]:
    """Every ordered pair of different responses and P(first preferred), by Bradley–Terry."""
    pairs = torch.tensor(list(itertools.permutations(range(len(table.responses)), 2)))
    first, second = pairs.T
    return first, second, torch.sigmoid(table.scores[first] - table.scores[second])


def expected_dpo(
    logp: Tensor, ref: Tensor, chosen: Tensor, rejected: Tensor, p: Tensor, loss: str, e: float
) -> Tensor:
    one = dpo_loss(logp[chosen], logp[rejected], ref[chosen], ref[rejected], BETA, loss, e)
    return (p * one).sum()


def test_expected_dpo_gradient_vanishes_at_the_optimum(table: Table) -> None:
    first, second, p = soft_pairs(table)
    logp = table.optimum(BETA)[0].clone().requires_grad_()
    ref = table.logps(table.ref_logits).sum(-1)
    gradient = torch.autograd.grad(expected_dpo(logp, ref, first, second, p, "sigmoid", 0.0), logp)[0]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    elsewhere = table.logps(table.logits).sum(-1).detach().requires_grad_()
    away = torch.autograd.grad(expected_dpo(elsewhere, ref, first, second, p, "sigmoid", 0.0), elsewhere)[0]
    assert float(away.abs().max()) > 0.1


def test_robust_dpo_has_the_clean_optimum_on_flipped_labels_and_smoothing_has_not(table: Table) -> None:
    first, second, p = soft_pairs(table)
    flipped = 0.8 * p + 0.2 * (1 - p)
    ref = table.logps(table.ref_logits).sum(-1)
    for loss, expected in (("robust", 0.0), ("sigmoid", None)):
        logp = table.optimum(BETA)[0].clone().requires_grad_()
        gradient = torch.autograd.grad(expected_dpo(logp, ref, first, second, flipped, loss, 0.2), logp)[0]
        if expected is None:
            assert float(gradient.abs().max()) > 0.05
        else:
            torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def resting_place(loss: str, p: float, e: float = 0.0) -> float:
    """The h = log-ratio margin that minimises the expected loss of one pair preferred with probability p."""
    h = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    zero = torch.zeros_like(h)
    expected = p * dpo_loss(h, zero, zero, zero, BETA, loss, e) + (1 - p) * dpo_loss(
        zero, h, zero, zero, BETA, loss, e
    )
    return float(h[expected.argmin()])


def logit(p: float) -> float:
    return float(torch.logit(torch.tensor(p, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("loss", "e", "expected"),
    [
        ("sigmoid", 0.0, logit(0.7) / BETA),
        ("sigmoid", 0.1, logit(0.9 * 0.7 + 0.1 * 0.3) / BETA),
        ("robust", 0.1, logit((0.7 - 0.1) / 0.8) / BETA),
        ("hinge", 0.0, 1 / BETA),
        ("ipo", 0.0, (2 * 0.7 - 1) / (2 * BETA)),
    ],
)
def test_each_loss_rests_where_its_closed_form_says(loss: str, e: float, expected: float) -> None:
    assert resting_place(loss, 0.7, e) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(
    ("loss", "e", "expected"),
    [
        ("sigmoid", 0.0, 0.6931471805599453),
        ("sigmoid", 0.3, 0.6931471805599453),
        ("sigmoid_normalised", 0.0, 0.6931471805599453),
        ("sigmoid_normalised", 0.3, 0.6931471805599453),
        ("robust", 0.3, 0.6931471805599453),
        ("hinge", 0.0, 1.0),
        ("ipo", 0.0, 4.0),
        ("ipo_average", 0.0, 4.0),
    ],
)
def test_dpo_at_the_reference(table: Table, loss: str, e: float, expected: float) -> None:
    """π = π_ref: log 2, 1 for the hinge, 1/(2β)² for IPO."""
    index = [[0, 5], [9, 3], [14, 1]]
    rollouts = replace(
        table.rollouts(index), ref_logps_PGT=table.logps(table.logits).detach()[torch.tensor(index)]
    )
    algorithm = DPO(beta=0.25, loss_type=loss, label_smoothing=e)
    value, metrics = algorithm.loss(outputs_of(table, index), rollouts)
    assert float(value.detach()) == pytest.approx(expected)
    assert float(metrics["margin"]) == pytest.approx(0)
    assert float(metrics["accuracy"]) == pytest.approx(0.5)


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_normalised", "hinge", "ipo", "ipo_average"])
@pytest.mark.parametrize("reference_free", [False, True])
def test_dpo_sums_or_averages_the_responses_log_probabilities(
    table: Table, loss: str, reference_free: bool
) -> None:
    index = [[0, 14], [13, 2]]
    algorithm = DPO(beta=0.25, loss_type=loss, reference_free=reference_free)
    value, _ = algorithm.loss(outputs_of(table, index), table.rollouts(index))
    average = loss in ("sigmoid_normalised", "ipo_average")
    expected = []
    for chosen, rejected in index:
        h = 0.0
        for sign, i in ((1, chosen), (-1, rejected)):
            n = len(table.responses[i])
            ratio = table.logps(table.logits)[i, :n]
            if not reference_free:
                ratio = ratio - table.logps(table.ref_logits)[i, :n]
            h += sign * float(ratio.detach().sum()) / (n if average else 1)
        z = 0.25 * h
        form = "sigmoid" if "sigmoid" in loss else "ipo" if "ipo" in loss else "hinge"
        expected.append(
            {
                "sigmoid": float(torch.nn.functional.softplus(torch.tensor(-z))),
                "hinge": max(0.0, 1 - z),
                "ipo": (h - 2) ** 2,
            }[form]
        )
    assert float(value.detach()) == pytest.approx(sum(expected) / 2, rel=1e-6)


def test_sequence_logps_sum_and_average_over_the_mask(table: Table) -> None:
    logps = table.logps(table.logits).detach()[None] + torch.where(table.mask, 0.0, 5.0)
    sums = sequence_logps(logps, table.mask[None])
    lengths = torch.tensor([len(r) for r in table.responses])
    torch.testing.assert_close(sums[0].exp(), table.probabilities)
    torch.testing.assert_close(sequence_logps(logps, table.mask[None], average=True)[0], sums[0] / lengths)


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_normalised", "ipo_average"])
def test_long_pairs_are_told_apart_by_averages_as_by_sums(loss: str) -> None:
    """A quarter of a nat over 512 tokens is no rounding, whichever of the two the loss is made of."""
    P, T = 8, 512
    random = torch.Generator().manual_seed(0)
    ref_P2T = -3 * torch.rand(P, 2, T, generator=random)
    step_2T = torch.tensor([5e-4, -5e-4])[:, None].expand(-1, T)
    mask_P2T = torch.ones(P, 2, T, dtype=torch.bool)
    rollouts = Rollouts(
        prompt_ids_PL=torch.zeros(P, 1, dtype=torch.long),
        prompt_mask_PL=torch.ones(P, 1, dtype=torch.bool),
        response_ids_PGT=torch.zeros(P, 2, T, dtype=torch.long),
        mask_PGT=mask_P2T,
        ended_PG=torch.ones(P, 2, dtype=torch.bool),
        ref_logps_PGT=ref_P2T,
    )
    algorithm = DPO(loss_type=loss)

    def accuracy(logps_P2T: Tensor) -> float:
        return float(algorithm.loss(Outputs(logps_P2T, torch.zeros(P, 2, T)), rollouts)[1]["accuracy"])

    assert accuracy(ref_P2T + step_2T) == 1.0
    assert accuracy(ref_P2T - step_2T) == 0.0
    assert accuracy(ref_P2T) == 0.5
