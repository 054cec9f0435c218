"""The pure losses against numbers worked out by hand, and where their gradients are zero."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from algos.losses import (
    Totals,
    aggregate,
    dpo_loss,
    kl_estimate,
    policy_gradient_loss,
    ppo_loss,
    ppo_token_losses,
    ratio_metrics,
    sequence_logps,
    value_loss,
)


def f64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


LN = math.log

# Two sequences, of 1 and 3 tokens, and a third of 2: token sums 1, 9 and 11.
X = f64(1, 99, 99, 2, 3, 4, 5, 6, 99).reshape(3, 1, 3)
MASK = torch.tensor([[1, 0, 0], [1, 1, 1], [1, 1, 0]]).bool().reshape(3, 1, 3)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("sequence_sum", 21 / 3),
        ("token_mean", 21 / 6),
        ("sequence_mean", (1 + 3 + 5.5) / 3),
        ("constant", 21 / 9),
    ],
)
def test_each_aggregation_by_hand(how: str, expected: float) -> None:
    assert float(aggregate(X, MASK, how)) == pytest.approx(expected)


@pytest.mark.parametrize("how", ["sequence_sum", "token_mean", "sequence_mean", "constant"])
def test_parts_of_a_step_add_up_to_the_whole(how: str) -> None:
    totals = Totals(sequences=3, tokens=6, max_tokens=3)
    parts = [aggregate(X[:1, :, :1], MASK[:1, :, :1], how, totals), aggregate(X[1:], MASK[1:], how, totals)]
    assert float(sum(parts)) == pytest.approx(float(aggregate(X, MASK, how)))


@pytest.mark.parametrize("how", ["sequence_sum", "token_mean", "sequence_mean", "constant"])
def test_nothing_off_the_mask_counts_not_even_nan(how: str) -> None:
    x = torch.where(MASK, X, math.nan).requires_grad_()
    loss = aggregate(x, MASK, how)
    assert float(loss.detach()) == pytest.approx(float(aggregate(X, MASK, how)))
    loss.backward()
    assert x.grad is not None
    assert bool((x.grad[~MASK] == 0).all())


def test_unknown_names_are_refused() -> None:
    for call in (
        lambda: aggregate(X, MASK, "mean"),  # type: ignore[arg-type]
        lambda: kl_estimate(X, X, "k4"),  # type: ignore[arg-type]
        lambda: dpo_loss(X, X, X, X, 0.1, "orpo"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="must be"):
            call()


def test_kl_estimators_by_hand() -> None:
    logps, ref = f64(math.log(0.5), math.log(0.25)), f64(math.log(0.25), math.log(0.5))
    ln2 = math.log(2)
    torch.testing.assert_close(kl_estimate(logps, ref, "k1"), f64(ln2, -ln2))
    torch.testing.assert_close(kl_estimate(logps, ref, "k2"), f64(ln2**2 / 2, ln2**2 / 2))
    torch.testing.assert_close(kl_estimate(logps, ref, "k3"), f64(0.5 - 1 + ln2, 2 - 1 - ln2))


def test_one_token_cannot_overflow_the_ratio() -> None:
    loss = ppo_token_losses(f64(0.0), f64(-500.0), f64(-1.0), 0.2)
    assert float(loss) == pytest.approx(math.exp(20))
    assert float(kl_estimate(f64(-500.0), f64(0.0), "k3")) == pytest.approx(math.exp(20) - 21)


def test_a_clamp_would_bias_k1_and_k2() -> None:
    """They have no exponential. k3 has one: e^50 would be one token's word against all others."""
    logps, ref = f64(0.0, -50.0), f64(-50.0, 0.0)
    assert kl_estimate(logps, ref, "k1").tolist() == [50.0, -50.0]
    assert kl_estimate(logps, ref, "k2").tolist() == [1250.0, 1250.0]
    assert kl_estimate(logps, ref, "k3").tolist() == pytest.approx(
        [math.exp(-20) + 19, math.exp(20) - 21], rel=1e-12
    )


def test_half_precision_is_raised_before_it_is_subtracted() -> None:
    """bf16 has 8 bits: 10.0 and 10.03 are the same number in it, but what is given is not rounded again."""
    logps = torch.tensor([-10.0625], dtype=torch.bfloat16)
    assert kl_estimate(logps, torch.tensor([-10.0]), "k1").dtype == torch.float32
    assert float(kl_estimate(logps, torch.tensor([-10.01]), "k1")) == pytest.approx(-0.0525, abs=1e-6)


def test_policy_gradient_loss_by_hand() -> None:
    logps, advantages = f64(-1, -2, -3).reshape(1, 1, 3), f64(2, -1, 7).reshape(1, 1, 3)
    mask = torch.tensor([[[True, True, False]]])
    assert float(policy_gradient_loss(logps, advantages, mask)) == pytest.approx(-(2 * -1 + -1 * -2))


def test_advantages_carry_no_gradient() -> None:
    logps, advantages = f64(-1.0).reshape(1, 1, 1), f64(2.0).reshape(1, 1, 1).requires_grad_()
    mask = torch.ones(1, 1, 1, dtype=torch.bool)
    for loss in (
        policy_gradient_loss(logps.requires_grad_(), advantages, mask),
        ppo_loss(logps, logps, advantages, mask),
    ):
        assert torch.autograd.grad(loss, advantages, allow_unused=True)[0] is None


def test_one_number_a_response_does_not_go_along_the_tokens() -> None:
    """[B] beside [B, T] does where B = T, and silently."""
    logps, each = torch.zeros(3, 3, dtype=torch.float64), f64(1, 2, 3)
    mask = torch.ones(3, 3, dtype=torch.bool)
    for call in (
        lambda: policy_gradient_loss(logps, each, mask),
        lambda: ppo_token_losses(logps, logps, each, 0.2),
        lambda: ppo_loss(logps, each, logps, mask),
        lambda: value_loss(logps, each, mask),
    ):
        with pytest.raises(
            ValueError, match=r"must have as many axes as \[3, 3\]; got \[3\]. Give it a value a token"
        ):
            call()
    with pytest.raises(ValueError, match=r"must have the mask's shape; got \[3\] and \[3, 3\]"):
        aggregate(each, mask, "token_mean")
    # With an axis of their own they are a response's at each of its tokens.
    loss = policy_gradient_loss(logps - 1, each[:, None], mask)
    assert float(loss) == pytest.approx((1 + 2 + 3) * 3 / 3)


def test_how_far_the_ratio_has_moved_by_hand() -> None:
    """Ratios 1, 1.5 and 0.5, and 9 where nothing counts."""
    logps = f64(0, LN(1.5), LN(0.5), LN(9)).reshape(1, 1, 4).requires_grad_()
    old, mask = torch.zeros(1, 1, 4, dtype=torch.float64), torch.tensor([[[True, True, True, False]]])
    found = ratio_metrics(logps, old, mask, 0.2)
    assert float(found["clip_fraction"]) == pytest.approx(2 / 3)
    assert float(found["approx_kl"]) == pytest.approx((0.5 - LN(1.5) - 0.5 - LN(0.5)) / 3)
    assert float(found["ratio_max"]) == pytest.approx(1.5)
    assert not any(x.requires_grad for x in found.values())
    assert float(ratio_metrics(logps, old, mask, 0.2, 0.6)["clip_fraction"]) == pytest.approx(1 / 3)
    totals = Totals(sequences=2, tokens=6, max_tokens=4)  # of a step of two such parts
    assert float(ratio_metrics(logps, old, mask, 0.2, totals=totals)["clip_fraction"]) == pytest.approx(1 / 3)


def clip_gradient(
    ratio: float, advantage: float, high: float | None = None, dual: float | None = None
) -> tuple[float, float]:
    """(loss, dloss/dlog π) of one token with ε = 0.2 below."""
    logp = f64(math.log(ratio)).requires_grad_()
    loss = ppo_token_losses(logp, f64(0.0), f64(advantage), 0.2, high, dual).sum()
    return float(loss.detach()), float(torch.autograd.grad(loss, logp)[0])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 1.0, -1.0, -1.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.3, 2.0, -2.4, 0.0),  # already encouraged enough
        (0.7, 2.0, -1.4, -1.4),  # moved the wrong way: pulled back
        (0.7, -2.0, 1.6, 0.0),  # already discouraged enough
        (1.3, -2.0, 2.6, 2.6),  # moved the wrong way: pulled back
        (0.9, -2.0, 1.8, 1.8),
        (1.3, 0.0, 0.0, 0.0),
    ],
)
def test_clip_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    assert clip_gradient(ratio, advantage) == (pytest.approx(loss), pytest.approx(gradient))


def test_asymmetric_clip_moves_the_upper_bound_alone() -> None:
    assert clip_gradient(1.3, 2.0, high=0.4) == (pytest.approx(-2.6), pytest.approx(-2.6))
    assert clip_gradient(1.5, 2.0, high=0.4) == (pytest.approx(-2.8), 0.0)
    assert clip_gradient(0.7, -2.0, high=0.4) == (pytest.approx(1.6), 0.0)
    assert clip_gradient(1.15, 2.0, high=0.1) == (pytest.approx(-2.2), 0.0)


def test_dual_clip_bounds_the_loss_of_negative_advantages_alone() -> None:
    assert clip_gradient(5.0, -2.0, dual=3.0) == (pytest.approx(6.0), 0.0)
    assert clip_gradient(2.5, -2.0, dual=3.0) == (pytest.approx(5.0), pytest.approx(5.0))
    assert clip_gradient(5.0, -2.0) == (pytest.approx(10.0), pytest.approx(10.0))
    assert clip_gradient(0.1, 2.0, dual=3.0) == (pytest.approx(-0.2), pytest.approx(-0.2))
    assert clip_gradient(5.0, 2.0, dual=3.0) == (pytest.approx(-2.4), 0.0)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-3, 3), st.floats(-3, 3).filter(lambda a: abs(a) > 1e-3),
    st.floats(0.05, 0.5), st.floats(0.05, 0.5), st.one_of(st.none(), st.floats(1.5, 4)),
)  # fmt: skip
def test_the_clips_gradient_is_zero_exactly_where_it_should_be(
    log_ratio: float, advantage: float, low: float, high: float, dual: float | None
) -> None:
    ratio = math.exp(log_ratio)
    stopped = (advantage > 0 and ratio > 1 + high) or (advantage < 0 and ratio < 1 - low)
    stopped |= advantage < 0 and dual is not None and ratio > dual
    edges = [1 + high, 1 - low, *([dual] if dual else [])]
    if min(abs(ratio - edge) for edge in edges) < 1e-9:
        return
    logp = f64(log_ratio).requires_grad_()
    loss = ppo_token_losses(logp, f64(0.0), f64(advantage), low, high, dual).sum()
    gradient = float(torch.autograd.grad(loss, logp)[0])
    assert gradient == (0.0 if stopped else pytest.approx(-advantage * ratio))


def test_value_loss_by_hand() -> None:
    """Old 0, return 1: V = 0.5 clips to 0.2 (error 0.64 > 0.25); V = −0.5 is off by 1.5 itself (2.25)."""
    values, old, returns = (
        f64(0.5, -0.5, 7).reshape(1, 1, 3),
        torch.zeros(1, 1, 3),
        f64(1, 1, 1).reshape(1, 1, 3),
    )
    mask = torch.tensor([[[True, True, False]]])
    assert float(value_loss(values, returns, mask, old, 0.2)) == pytest.approx(0.5 * (0.64 + 2.25) / 2)
    assert float(value_loss(values, returns, mask)) == pytest.approx(0.5 * (0.25 + 2.25) / 2)


def test_value_clip_stops_a_value_that_has_moved_far_enough() -> None:
    values = f64(0.5, -0.5).reshape(1, 1, 2).requires_grad_()
    zero, one, mask = torch.zeros(1, 1, 2), torch.ones(1, 1, 2), torch.ones(1, 1, 2, dtype=torch.bool)
    value_loss(values, one, mask, zero, 0.2).backward()
    assert values.grad is not None
    assert values.grad.flatten().tolist() == pytest.approx([0.0, -1.5 / 2])


def test_only_values_learn_from_the_value_loss() -> None:
    """Returns that were made of the values, in a loop of one's own, are targets all the same."""
    values, returns, old = (f64(x).reshape(1, 1, 1).requires_grad_() for x in (0.5, 1.0, 0.4))
    for clip_range in (None, 0.2):
        loss = value_loss(values, returns, torch.ones(1, 1, 1, dtype=torch.bool), old, clip_range)
        found = torch.autograd.grad(loss, (values, returns, old), allow_unused=True)
        assert [x is None for x in found] == [False, True, True]


@pytest.mark.parametrize(
    ("loss", "e", "expected"),
    [
        # h = (−1 − −2) − (−4 − −3) = 2; β = 0.5: z = 1.
        ("sigmoid", 0.0, LN(1 + math.exp(-1))),
        ("sigmoid", 0.1, 0.9 * LN(1 + math.exp(-1)) + 0.1 * LN(1 + math.e)),
        ("robust", 0.1, (0.9 * LN(1 + math.exp(-1)) - 0.1 * LN(1 + math.e)) / 0.8),
        ("robust", 0.0, LN(1 + math.exp(-1))),
        ("hinge", 0.0, 0.0),
        ("ipo", 0.0, (2 - 1) ** 2),
    ],
)
def test_each_dpo_loss_by_hand(loss: str, e: float, expected: float) -> None:
    one = dpo_loss(f64(-1), f64(-4), f64(-2), f64(-3), 0.5, loss, e)
    assert one.shape == (1,)
    assert float(one) == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["sigmoid_normalised", "ipo_average"])
def test_averages_are_the_callers_business(loss: str) -> None:
    with pytest.raises(
        ValueError, match=r"one of sigmoid, robust, hinge, ipo; got .*sequence_logps\(…, average=True\)"
    ):
        dpo_loss(f64(-1), f64(-4), f64(-2), f64(-3), 0.5, loss)


def test_ipo_of_averages_is_the_one_of_dpo() -> None:
    logps = torch.stack([f64(-1, -2, 0), f64(-4, -1, -1)])[None]
    mask = torch.tensor([[[True, True, False], [True, True, True]]])
    chosen, rejected = sequence_logps(logps, mask, average=True).unbind(-1)
    assert float(dpo_loss(chosen, rejected, f64(0), f64(0), 0.5, "ipo")) == pytest.approx((-1.5 + 2 - 1) ** 2)


@pytest.mark.parametrize("loss", ["sigmoid", "robust"])
def test_labels_may_be_soft_by_the_pair(loss: str) -> None:
    chosen, rejected, zero, e = f64(-1, -2, -1), f64(-4, -3, -1), f64(0, 0, 0), f64(0.0, 0.3, 0.1)
    found = dpo_loss(chosen, rejected, zero, zero, 0.5, loss, e)
    each = [
        dpo_loss(chosen[i : i + 1], rejected[i : i + 1], zero[:1], zero[:1], 0.5, loss, float(e[i]))
        for i in range(3)
    ]
    torch.testing.assert_close(found, torch.cat(each), rtol=0, atol=0)


@pytest.mark.parametrize("loss", ["hinge", "ipo"])
def test_label_smoothing_is_refused_where_it_would_be_ignored(loss: str) -> None:
    with pytest.raises(ValueError, match=f"label_smoothing must be 0 for loss_type '{loss}'.*got 0.1"):
        dpo_loss(f64(-1), f64(-4), f64(-2), f64(-3), 0.5, loss, 0.1)
    with pytest.raises(ValueError, match="label_smoothing must be 0"):
        dpo_loss(f64(-1, -1), f64(-4, -4), f64(-2, -2), f64(-3, -3), 0.5, loss, f64(0.1, 0.2))


def test_hinge_is_one_minus_the_margin_below_one() -> None:
    assert float(dpo_loss(f64(-1), f64(-4), f64(-2), f64(-3), 0.2, "hinge")) == pytest.approx(0.6)
    assert float(dpo_loss(f64(-4), f64(-1), f64(-3), f64(-2), 0.2, "hinge")) == pytest.approx(1.4)


@pytest.mark.parametrize("loss", ["sigmoid", "robust", "hinge", "ipo"])
def test_dpo_raises_the_chosen_and_lowers_the_rejected(loss: str) -> None:
    chosen, rejected = f64(-1).requires_grad_(), f64(-1).requires_grad_()
    dpo_loss(chosen, rejected, f64(-1), f64(-1), 0.5, loss).sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert float(chosen.grad) < 0 < float(rejected.grad)
    assert float(chosen.grad) == pytest.approx(-float(rejected.grad))
