"""The frontier against exact enumeration, and the laws that any tilted distribution obeys."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from frontier_world import FrontierWorld
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax

from eval.frontier.estimate import Curve, beta_grid, reach, reference_weights, tilted, total_probability

COUNT = 1024


@functools.cache
def world(seed: int) -> FrontierWorld:
    return FrontierWorld.random(seed)


def estimated(seed: int, draw: int = 0, arms: bool = True, count: int = COUNT) -> Curve:
    policies = [world(seed).ref_PS, *(world(seed).arms(seed) if arms else [])]
    logps_KPM, counts, rewards_PM = world(seed).sampled(policies, count, draw)
    return tilted(logps_KPM, counts, rewards_PM, beta_grid(rewards_PM[:, :count]))


def errors(curve: Curve, seed: int, part: str, least_kl: float) -> np.ndarray:
    """Error of the reward at each KL of a part, as a share of what could be gained there."""
    at_B = (curve.reach_B == part) & (curve.kl_B >= least_kl)
    gain_B = world(seed).gain_at(curve.kl_B[at_B])
    base = world(seed).mean(world(seed).ref_PS).mean()
    return np.abs(curve.reward_B[at_B] - base - gain_B) / gain_B


@pytest.mark.parametrize("seed", range(4))
def test_the_solid_part_is_within_two_percent_of_the_exact_frontier(seed: int) -> None:
    """From half a nat on: below, the whole gain is less than the error of the base's own mean."""
    for draw in range(2):
        curve = estimated(seed, draw)
        assert curve.kl_B[curve.reach_B == "solid"].max() > 5
        assert errors(curve, seed, "solid", least_kl=0.5).max() < 0.02
        assert errors(curve, seed, "dashed", least_kl=0.5).max() < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_gains_are_within_two_percent_from_the_start(seed: int) -> None:
    """Gain over the estimated base, in which the base's own error cancels."""
    curve = estimated(seed)
    solid_B = (curve.reach_B == "solid") & (curve.kl_B > 1e-3)
    gain_B = curve.reward_B[solid_B] - curve.reward_B[0]
    np.testing.assert_allclose(gain_B, world(seed).gain_at(curve.kl_B[solid_B]), rtol=0.02)


@pytest.mark.parametrize("seed", range(2))
def test_trained_arms_carry_the_frontier_further_than_the_reference_alone(seed: int) -> None:
    alone, together = estimated(seed, arms=False), estimated(seed)
    furthest = [float(curve.kl_B[curve.reach_B == "solid"].max()) for curve in (alone, together)]
    assert furthest[1] > 3 * furthest[0]
    assert errors(alone, seed, "solid", least_kl=0.5).max() < 0.04


def test_the_reference_alone_is_plain_importance_sampling() -> None:
    random = np.random.default_rng(0)
    rewards_PM, beta = random.normal(size=(2, 5)), 0.7
    curve = tilted(random.normal(size=(1, 2, 5)), (5,), rewards_PM, np.array([beta]))
    w_PM = np.exp(rewards_PM / beta)
    np.testing.assert_allclose(curve.log_z_BP[0], np.log(w_PM.mean(-1)))
    np.testing.assert_allclose(curve.reward_BP[0], (w_PM * rewards_PM).sum(-1) / w_PM.sum(-1))
    np.testing.assert_allclose(curve.kl_BP[0], curve.reward_BP[0] / beta - curve.log_z_BP[0])
    np.testing.assert_allclose(curve.ess_BP[0], w_PM.sum(-1) ** 2 / (w_PM**2).sum(-1))


def test_log_z_is_exact_where_a_sampler_is_the_optimum() -> None:
    """Its probabilities sum to 1: that is Σ π_ref·e^{r/β} = Z, with no noise left."""
    beta = 0.3 * world(0).spread
    best_PS, log_z_P = world(0).optimum(beta)
    logps_KPM, counts, rewards_PM = world(0).sampled([world(0).ref_PS, *world(0).arms(0), best_PS], 256, 0)
    curve = tilted(logps_KPM, counts, rewards_PM, np.array([beta]))
    np.testing.assert_allclose(curve.log_z_BP[0], log_z_P, atol=1e-6)


def test_weights_stand_for_the_reference() -> None:
    """They sum to 1; every sampler's probabilities do under them; and they are the balance heuristic's but for that."""
    logps_KPM, counts, _ = world(1).sampled([world(1).ref_PS, *world(1).arms(1)], 256, 0)
    v_PM = np.exp(reference_weights(logps_KPM, counts))
    np.testing.assert_allclose((v_PM * np.exp(logps_KPM - logps_KPM[0])).sum(-1), 1, atol=1e-5)
    heuristic_PM = np.exp(logps_KPM[0]) / np.exp(logps_KPM).mean(0)
    ratio_PM = v_PM / (heuristic_PM / heuristic_PM.sum(-1, keepdims=True))
    assert 0.5 < ratio_PM.min() < ratio_PM.max() < 1.5
    assert np.abs(ratio_PM - 1).mean() < 0.1


def test_probabilities_sum_to_one_unless_scored_otherwise_than_sampled() -> None:
    """The third sampler's log-probabilities are those of temperature 1, its responses of 0.8."""
    policies = [world(1).ref_PS, *world(1).arms(1)]
    logps_KPM, counts, _ = world(1).sampled(policies, COUNT, 0)
    for sampler in total_probability(logps_KPM, counts):
        assert sampler.low < 1 < sampler.high
        assert sampler.half_width < 0.1
    cooler = [*policies[:2], log_softmax(policies[2] / 0.8, axis=-1), policies[3]]
    logps_KPM, counts, _ = world(1).sampled(cooler, COUNT, 0, scored_by=policies)
    assert any(sampler.low > 1 or sampler.high < 1 for sampler in total_probability(logps_KPM, counts))


@given(arrays(float, (3, 2, 6), elements=st.floats(-30, 0)), arrays(float, (2, 6), elements=st.floats(-3, 3)))
def test_whatever_the_samples_the_curve_is_possible(logps_KPM: np.ndarray, rewards_PM: np.ndarray) -> None:
    """Two responses a sampler, of made-up probabilities: calibration that would make a weight negative is left out."""
    curve = tilted(logps_KPM, (2, 2, 2), rewards_PM, np.array([np.inf, 10.0, 1.0, 0.1]))
    assert (np.diff(curve.kl_BP, axis=0) >= -1e-6).all()
    assert (np.diff(curve.reward_BP, axis=0) >= -1e-6).all()
    assert (curve.kl_BP >= 0).all()
    assert (rewards_PM.min(-1) - 1e-6 <= curve.reward_BP).all()
    assert (curve.reward_BP <= rewards_PM.max(-1) + 1e-6).all()
    assert ((curve.ess_BP >= 1 - 1e-6) & (curve.ess_BP <= 6 + 1e-6)).all()


def test_samplers_with_unequal_counts_weigh_by_them() -> None:
    """A sampler listed twice is one sampler with both shares."""
    ref_PS, (arm_PS, *_) = world(2).ref_PS, world(2).arms(2)
    logps_KPM, _, rewards_PM = world(2).sampled([ref_PS, arm_PS, arm_PS], 128, 0)
    betas_B = beta_grid(rewards_PM)
    one = tilted(logps_KPM[:2], (128, 256), rewards_PM, betas_B)
    two = tilted(logps_KPM, (128, 128, 128), rewards_PM, betas_B)
    np.testing.assert_allclose(two.kl_BP, one.kl_BP, atol=1e-6)
    np.testing.assert_allclose(two.reward_BP, one.reward_BP, atol=1e-6)


def test_samplers_that_are_all_the_reference_change_nothing() -> None:
    logps_KPM, _, rewards_PM = world(2).sampled([world(2).ref_PS] * 3, 64, 0)
    betas_B = beta_grid(rewards_PM)
    noisy_KPM = logps_KPM + 1e-12 * np.random.default_rng(0).normal(size=logps_KPM.shape)
    alone = tilted(logps_KPM[:1], (192,), rewards_PM, betas_B)
    np.testing.assert_allclose(
        tilted(noisy_KPM, (64,) * 3, rewards_PM, betas_B).log_z_BP, alone.log_z_BP, atol=1e-8
    )


def test_the_curve_obeys_the_laws_of_tilting() -> None:
    """Begins at the base; KL rises as β falls; dE[r]/dKL = β; β·log Z = E[r] − β·KL."""
    curve = estimated(3)
    assert np.isinf(curve.betas_B[0])
    assert curve.kl_B[0] == 0
    assert (np.diff(curve.kl_BP, axis=0) >= -1e-9).all()
    dense = tilted(*_arguments(), np.array([0.4001, 0.4, 0.3999]))
    slope_P = (dense.reward_BP[2] - dense.reward_BP[0]) / (dense.kl_BP[2] - dense.kl_BP[0])
    np.testing.assert_allclose(slope_P, 0.4, rtol=1e-5)
    np.testing.assert_allclose(0.4 * dense.log_z_BP[1], dense.reward_BP[1] - 0.4 * dense.kl_BP[1])


def _arguments(seed: int = 3) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
    return world(seed).sampled([world(seed).ref_PS, *world(seed).arms(seed)], 128, 0)


def test_units_of_the_reward_do_not_matter() -> None:
    """r → 1000·r + 1e6 with β → 1000·β gives the same policies."""
    logps_KPM, counts, rewards_PM = _arguments()
    betas_B = beta_grid(rewards_PM)
    here = tilted(logps_KPM, counts, rewards_PM, betas_B)
    there = tilted(logps_KPM, counts, 1000 * rewards_PM + 1e6, 1000 * betas_B)
    np.testing.assert_allclose(there.kl_BP, here.kl_BP, atol=1e-6)
    np.testing.assert_allclose(there.ess_BP, here.ess_BP, rtol=1e-6)
    np.testing.assert_allclose(there.reward_BP, 1000 * here.reward_BP + 1e6)


def test_log_probabilities_of_long_responses_do_not_underflow() -> None:
    logps_KPM, counts, rewards_PM = _arguments()
    betas_B = beta_grid(rewards_PM)
    far = tilted(logps_KPM - 5000.0, counts, rewards_PM, betas_B)
    np.testing.assert_allclose(far.kl_BP, tilted(logps_KPM, counts, rewards_PM, betas_B).kl_BP, atol=1e-8)


@pytest.mark.parametrize("rewards", [[0.0, 0.0], [0.3, 0.1 + 0.2]])
def test_a_reward_without_spread_leaves_the_base(rewards: list[float]) -> None:
    """Equal but for rounding is equal."""
    rewards_PM = np.tile(rewards, (2, 50))
    betas_B = beta_grid(rewards_PM)
    assert betas_B[-1] > 1e-3
    curve = tilted(np.zeros((1, 2, 100)), (100,), rewards_PM, betas_B)
    np.testing.assert_allclose(curve.kl_B, 0)
    np.testing.assert_allclose(curve.reward_B, rewards[0])
    assert set(curve.reach_B) == {"solid"}
    assert float(curve.reward_at(0.0)) == pytest.approx(rewards[0])
    assert np.isnan(curve.reward_at(0.5))


def test_the_best_response_alone_is_where_tilting_ends() -> None:
    """p its share of the reference's responses: KL → −log p, effective sample size → how many there are."""
    rewards_PM = np.array([[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    curve = tilted(np.zeros((1, 1, 8)), (8,), rewards_PM, np.array([np.inf, 1e-3]))
    np.testing.assert_allclose(curve.kl_B, [0, np.log(4)])
    np.testing.assert_allclose(curve.reward_B, [0.25, 1])
    np.testing.assert_allclose(curve.ess_BP[:, 0], [8, 2])


def test_a_response_that_the_reference_cannot_give_has_no_weight() -> None:
    logps_KPM = np.log([[[0.5, 0.5, 0.5]], [[0.2, 0.4, 0.4]]])
    logps_KPM[0, 0, 2] = -np.inf
    curve = tilted(logps_KPM, (2, 1), np.array([[0.0, 1.0, 9.0]]), np.array([0.01]))
    assert curve.reward_B[0] == pytest.approx(1)


def test_reach_is_where_nine_prompts_in_ten_have_the_sample_size_and_never_returns() -> None:
    ess_PB = np.full((10, 8), 100.0)
    ess_PB[0] = 1  # one prompt in ten may have fewer
    ess_PB[1, 2:] = [49, 100, 9, 100, 10, 50]
    assert reach(ess_PB.T).tolist() == ["solid"] * 2 + ["dashed"] * 2 + ["none"] * 4
    assert reach(np.array([[50.0], [49.9], [10.0], [9.9]])).tolist() == ["solid", "dashed", "dashed", "none"]


def test_reward_at_a_kl_is_read_off_the_drawn_part() -> None:
    curve = estimated(0)
    solid, drawn = (curve.kl_B[np.isin(curve.reach_B, parts)] for parts in (["solid"], ["solid", "dashed"]))
    assert drawn[-1] > solid[-1]
    np.testing.assert_allclose(curve.reward_at(drawn), curve.reward_B[: len(drawn)])
    between = (solid[-1] + drawn[-1]) / 2
    assert np.isfinite(curve.reward_at(between))
    assert np.isnan(curve.reward_at(between, solid=True))
    assert np.isnan(curve.reward_at(drawn[-1] + 0.01))
    assert float(curve.reward_at(-0.01)) == pytest.approx(curve.reward_B[0])  # a sampled KL can be negative


def test_nothing_is_drawn_of_too_few_samples() -> None:
    curve = estimated(0, arms=False, count=8)
    assert set(curve.reach_B) == {"none"}
    assert np.isnan(curve.reward_at(np.array([0.0, 1.0]))).all()


def test_the_band_is_of_prompts_drawn_again() -> None:
    curve = estimated(1)
    kl_Q = np.array([0.0, 1.0, 3.0, 50.0])
    low_Q, high_Q = curve.band(kl_Q, np.random.default_rng(0))
    np.testing.assert_array_equal(curve.band(kl_Q, np.random.default_rng(0))[0], low_Q)
    assert not np.array_equal(curve.band(kl_Q, np.random.default_rng(1))[0], low_Q, equal_nan=True)
    inside = slice(0, 3)
    assert (low_Q[inside] < curve.reward_at(kl_Q[inside])).all()
    assert (curve.reward_at(kl_Q[inside]) < high_Q[inside]).all()
    assert np.isnan([low_Q[3], high_Q[3]]).all()
    # At the base it is the bootstrap of a mean over 16 prompts, at the levels that make it about Student's t.
    error, base = curve.reward_BP[0].std(ddof=1) / 4, curve.reward_B[0]
    assert base - low_Q[0] == pytest.approx(2.13 * error, rel=0.1)
    assert high_Q[0] - base == pytest.approx(2.13 * error, rel=0.1)


def test_one_prompt_is_enough_for_a_curve() -> None:
    rewards_PM = np.random.default_rng(0).normal(size=(1, 500))
    curve = tilted(np.zeros((1, 1, 500)), (500,), rewards_PM, beta_grid(rewards_PM))
    low_Q, high_Q = curve.band(np.array([0.5]), np.random.default_rng(0))
    assert np.isnan([low_Q, high_Q]).all()  # of other prompts it says nothing


def test_the_grid_goes_from_the_base_to_beyond_what_samples_reach() -> None:
    curve = estimated(2)
    assert 0 < curve.kl_B[1] < 1e-4
    assert curve.reach_B[-1] == "none"
    betas_B = beta_grid(np.array([[0.0, 1.0, 2.0]]), include=[0.05, 3.0])
    assert (np.diff(betas_B) < 0).all()
    assert {0.05, 3.0} <= set(betas_B)


def test_index_finds_a_beta_of_the_grid() -> None:
    rewards_PM = np.random.default_rng(0).normal(size=(2, 50))
    curve = tilted(np.zeros((1, 2, 50)), (50,), rewards_PM, beta_grid(rewards_PM, include=[0.05]))
    assert curve.betas_B[curve.index(0.05)] == 0.05
    with pytest.raises(ValueError, match=r"0\.06"):
        curve.index(0.06)


@pytest.mark.parametrize(
    ("counts", "reward", "betas", "logp", "message"),
    [
        ((3,), 0.0, [1.0], 0.0, "every sampler needs a count"),
        ((4, 0), 0.0, [1.0], 0.0, "every sampler needs a count"),
        ((2, 1), 0.0, [1.0], 0.0, "every sampler needs a count"),
        ((2, 2), np.nan, [1.0], 0.0, "finite"),
        ((2, 2), 0.0, [1.0, 2.0], 0.0, "descend"),
        ((2, 2), 0.0, [1.0, 0.0], 0.0, "positive"),
        ((2, 2), 0.0, [1.0], -np.inf, "possible under one sampler"),
        ((2, 2), 0.0, [1.0], np.nan, "possible under one sampler"),
    ],
)
def test_what_cannot_be_is_refused(
    counts: tuple[int, ...], reward: float, betas: list[float], logp: float, message: str
) -> None:
    logps_KPM, rewards_PM = np.zeros((2, 1, 4)), np.array([[0.0, 0.0, 0.0, reward]])
    logps_KPM[:, 0, 1] = logp
    with pytest.raises(ValueError, match=message):
        tilted(logps_KPM, counts, rewards_PM, np.array(betas))
