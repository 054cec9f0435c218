"""All three reach π* ∝ π_ref·e^{r/β} on a space small enough to know it: total variation ≤ 0.02."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tiny import every_response, rollouts_of, tiny_policy
from torch import Tensor

from algos import PPO, REINFORCE, Algorithm, Policy, Sampling, train
from algos.engine.forward import forward
from algos.engine.scoring import score_policy, score_reference
from algos.engine.text.control import Rendered, Span
from algos.losses import dpo_loss, sequence_logps

BETA = 0.5
PROMPTS = [[0, 1], [0, 2]]
TEXTS = [Rendered(text, (Span(0, len("<eos>"), True),)) for text in ("<eos> a", "<eos> b")]
"""Neither begins the other, and both begin with an id that no response goes on after: else two different
states would be one to the model (rotary attention cannot tell `a` from `a a`), and π* out of its reach."""


class Space:
    """Every response to both prompts with a random reward, and what the best policy makes of them."""

    def __init__(self, policy: Policy, length: int = 2) -> None:
        self.policy, self.length = policy, length
        self.responses = every_response(len(policy.tokenizer), length)
        self.rollouts = rollouts_of(PROMPTS, [self.responses, self.responses])
        random = torch.Generator().manual_seed(5)
        self.scores_PG = 0.5 * torch.randn(self.rollouts.P, self.rollouts.G, generator=random)
        self.ref_PG = self.sequences(score_reference(policy, self.rollouts, 1.0))

    def sequences(self, logps_PGT: Tensor) -> Tensor:
        return sequence_logps(logps_PGT, self.rollouts.mask_PGT)

    def reward(self, prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        rows = zip(prompts, completion_ids, strict=True)
        return [float(self.scores_PG[TEXTS.index(prompt), self.responses.index(ids)]) for prompt, ids in rows]

    def distance(self, beta: float = BETA) -> float:
        """Total variation to β's π*, the worse of the two prompts."""
        optimum_PG = (self.ref_PG + self.scores_PG / beta).softmax(-1)
        p_PG = self.sequences(score_policy(self.policy, self.rollouts, 1.0)[0]).exp()
        torch.testing.assert_close(p_PG.sum(-1), torch.ones(2))
        return float((p_PG - optimum_PG).abs().sum(-1).max() / 2)

    def learn(self, algorithm: Algorithm) -> None:
        """1,024 responses an iteration; the rate falls linearly to 0 (the default), as whitening amplifies
        noise where all returns are alike."""
        sampling = Sampling(max_new_tokens=self.length, group_size=64, prompts_per_iteration=8)
        options: dict[str, Any] = {"prompts": TEXTS, "reward": self.reward, "sampling": sampling}
        train(algorithm, self.policy, budget="120iterations", **options)


SAMPLED = {
    "reinforce": REINFORCE(beta=BETA, learning_rate=1e-2),
    "reinforce-value": REINFORCE(beta=BETA, learning_rate=1e-2, baseline="value"),
    "ppo": PPO(beta=BETA, learning_rate=3e-3, ppo_epochs=2, minibatches=2),
    "ppo-separate": PPO(beta=BETA, learning_rate=3e-3, ppo_epochs=2, value_model="separate"),
}
WORLDS = {"two-steps": ("gpt2", "a b", 2), "rotary": ("llama", "a b", 2), "three-steps": ("gpt2", "a", 3)}


def space_of(world: str) -> Space:
    kind, words, length = WORLDS[world]
    return Space(tiny_policy(kind, words, seed=3), length)


@pytest.mark.parametrize(
    ("name", "world"),
    [
        ("reinforce", "two-steps"),
        ("reinforce", "rotary"),
        ("ppo", "three-steps"),
        pytest.param("reinforce-value", "two-steps", marks=pytest.mark.slow),
        pytest.param("ppo-separate", "two-steps", marks=pytest.mark.slow),
        # Either algorithm in every world: each of both is above.
        pytest.param("reinforce", "three-steps", marks=pytest.mark.slow),
        pytest.param("ppo", "two-steps", marks=pytest.mark.slow),
        pytest.param("ppo", "rotary", marks=pytest.mark.slow),
    ],
)
def test_reinforce_and_ppo_reach_the_optimum_from_samples(name: str, world: str) -> None:
    space = space_of(world)
    assert space.distance() > 0.2
    space.learn(SAMPLED[name])
    assert space.distance() <= 0.02
    assert space.distance(BETA / 2) > 0.1  # so that the test can fail: another β has another optimum


@pytest.mark.parametrize(("loss", "flipped"), [("sigmoid", 0.0), ("robust", 0.2), ("sigmoid", 0.2)])
def test_dpo_reaches_the_optimum_on_the_exact_expected_loss(loss: str, flipped: float) -> None:
    """Soft Bradley–Terry labels over every pair; under flipped labels the robust loss does, the plain does not."""
    space = space_of("two-steps")
    assert space.distance() > 0.2
    first, second = torch.tensor(list(itertools.combinations(range(len(space.responses)), 2))).T
    p_PN = torch.sigmoid(space.scores_PG[:, first] - space.scores_PG[:, second])
    p_PN = (1 - flipped) * p_PN + flipped * (1 - p_PN)
    smoothing = flipped if loss == "robust" else 0.0
    policy, steps, rate = space.policy, 300, 1e-2
    optimizer = torch.optim.Adam(policy.model.parameters(), lr=rate)
    for step in range(steps):
        logps_PG = space.sequences(forward(policy.model, space.rollouts, 1.0, policy.dtype).logps_PGT)
        a, b, ref_a, ref_b = (x[:, index] for x in (logps_PG, space.ref_PG) for index in (first, second))
        preferred = dpo_loss(a, b, ref_a, ref_b, BETA, loss, smoothing)
        other = dpo_loss(b, a, ref_b, ref_a, BETA, loss, smoothing)
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        (p_PN * preferred + (1 - p_PN) * other).mean().backward()
        optimizer.step()
    if loss == "sigmoid" and flipped:
        assert space.distance() > 0.1
    else:
        assert space.distance() <= 0.02
