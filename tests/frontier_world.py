"""A space of responses small enough to enumerate: reference, rewards and every best policy are known exactly."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import log_softmax, logsumexp

BASE_TO_FAR = 200
"""Values of β along the exact frontier: interpolating between them errs by less than 1e-4 of the gain."""


@dataclass(frozen=True)
class FrontierWorld:
    """P prompts, all S = 4⁶ responses of six tokens: log-probabilities under the reference, and rewards, both [P, S]."""

    ref_PS: np.ndarray
    rewards_PS: np.ndarray

    @classmethod
    def random(cls, seed: int, prompts: int = 16) -> FrontierWorld:
        """Next-token tables of each prompt's own; reward is a sum over tokens with a little of each response's own."""
        random = np.random.default_rng(seed)
        vocabulary, length = 4, 6
        tokens_ST = np.array(list(itertools.product(range(vocabulary), repeat=length)))
        before_ST = np.pad(tokens_ST, ((0, 0), (1, 0)), constant_values=vocabulary)[:, :-1]
        shape = (prompts, length, vocabulary + 1, vocabulary)  # a table for every preceding token, or none
        table_PTVV = log_softmax(1.2 * random.normal(size=shape), axis=-1)
        worth_PTV = 0.4 * random.normal(size=vocabulary) + 0.2 * random.normal(
            size=(prompts, length, vocabulary)
        )
        at_T = np.arange(length)
        rewards_PS = worth_PTV[:, at_T, tokens_ST].sum(-1)
        rewards_PS += 0.3 * random.normal(size=rewards_PS.shape)
        return cls(table_PTVV[:, at_T, before_ST, tokens_ST].sum(-1), rewards_PS)

    @property
    def spread(self) -> float:
        """Standard deviation of the reward at a prompt, the reference answering."""
        mean_P = self.mean(self.ref_PS)
        return float(np.sqrt(((np.exp(self.ref_PS) * self.rewards_PS**2).sum(-1) - mean_P**2).mean()))

    def optimum(self, beta: float, rewards_PS: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """π*_β for these or other rewards: its log-probabilities [P, S], and log Z [P]."""
        tilted_PS = self.ref_PS + (self.rewards_PS if rewards_PS is None else rewards_PS) / beta
        log_z_P = logsumexp(tilted_PS, axis=-1)
        return tilted_PS - log_z_P[:, None], log_z_P

    def mean(self, logps_PS: np.ndarray) -> np.ndarray:
        """E[r] of a policy for each prompt."""
        return (np.exp(logps_PS) * self.rewards_PS).sum(-1)

    def kl(self, logps_PS: np.ndarray) -> np.ndarray:
        """KL(π‖π_ref) for each prompt."""
        return (np.exp(logps_PS) * (logps_PS - self.ref_PS)).sum(-1)

    @cached_property
    def frontier(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean KL along the exact frontier, and the gain over the base there."""
        betas = np.geomspace(40 * self.spread, self.spread / 400, BASE_TO_FAR)
        optima = [self.ref_PS, *(self.optimum(beta)[0] for beta in betas)]
        kl_B, reward_B = ([of(logps).mean() for logps in optima] for of in (self.kl, self.mean))
        return np.array(kl_B), np.array(reward_B) - reward_B[0]

    def gain_at(self, kl: np.ndarray | float) -> np.ndarray:
        """The most that any policy of this mean KL has above the base."""
        kl_B, gain_B = self.frontier
        return np.interp(np.sqrt(kl), np.sqrt(kl_B), gain_B)

    def arms(self, seed: int) -> list[np.ndarray]:
        """Three trained policies: one near the best, two that follow more and more of another reward."""
        noise_PS = np.random.default_rng((seed, 1)).normal(size=self.ref_PS.shape)
        return [
            self.optimum(beta * self.spread, self.rewards_PS + wrong * self.spread * noise_PS)[0]
            for beta, wrong in ((0.5, 0.05), (0.25, 0.3), (0.15, 0.5))
        ]

    def sampled(
        self,
        policies: Sequence[np.ndarray],
        count: int,
        seed: int,
        scored_by: Sequence[np.ndarray] | None = None,
    ) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
        """`count` responses a prompt of each policy: logps_KPM (under other policies, where named), counts, rewards_PM."""
        random = np.random.default_rng((seed, 2))
        drawn_PM = np.array([
            np.concatenate([
                random.choice(len(logps_PS[p]), count, p=np.exp(log_softmax(logps_PS[p])))
                for logps_PS in policies
            ])
            for p in range(len(self.ref_PS))
        ])  # fmt: skip
        scoring = policies if scored_by is None else scored_by
        logps_KPM = np.stack([np.take_along_axis(logps_PS, drawn_PM, -1) for logps_PS in scoring])
        return logps_KPM, (count,) * len(policies), np.take_along_axis(self.rewards_PS, drawn_PM, -1)
