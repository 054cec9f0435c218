"""Batches that are sampled and scored: training prompts in random order, some an iteration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from algos.engine.batches.prompts import EncodedPrompt, texts
from algos.engine.budget import Meter
from algos.engine.calls import RewardError
from algos.engine.models.policy import Policy
from algos.engine.rewards import Reward, call_reward
from algos.engine.rollouts import Rollouts
from algos.engine.sampling import sample
from algos.engine.seeding import derive, digest, generator
from algos.engine.settings import Sampling


def score(
    policy: Policy, prompts: Sequence[EncodedPrompt], rollouts: Rollouts, reward: Reward
) -> torch.Tensor:
    """Scores [P, G] of the responses, NaN where the reward left one unscored; raises RewardError."""
    ids, completions = texts(policy, prompts, rollouts)
    rows = [prompt.row for prompt in prompts for _ in range(rollouts.G)]
    scores = call_reward(reward, rows, completions, ids, unscored=True)
    return torch.tensor(scores, device=policy.device).unflatten(0, (rollouts.P, rollouts.G))


def learnable(scores_PG: torch.Tensor, greedy_P: torch.Tensor | None, min_group_size: int) -> torch.Tensor:
    """[P, G] True where there is enough to learn from: a score, `min_group_size` of them in the group, one of the
    greedy response where there is one.

    Raises RewardError where nothing is left to learn from.
    """
    scored_PG = ~scores_PG.isnan()
    if not bool(scored_PG.any()):
        raise RewardError(
            f"the reward scored none of the {scores_PG.numel()} responses of an iteration. "
            "Give a reward that scores some of them."
        )
    if greedy_P is not None:
        scored_PG = scored_PG & ~greedy_P.isnan()[:, None]
    scored_PG = scored_PG & (scored_PG.sum(-1, keepdim=True) >= min_group_size)
    if not bool(scored_PG.any()):
        raise RewardError(
            f"the reward left too many responses unscored: no prompt has {min_group_size} to learn from. "
            "Give a reward that scores more of them, or a larger --group-size."
        )
    return scored_PG


def _plain(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The columns of a row as JSON, without those that cannot be written so."""
    found = []
    for name, value in row.items():
        with suppress(TypeError, ValueError, RecursionError):
            found.append((str(name), json.dumps(value, sort_keys=True)))
    return sorted(found)


class PromptSource:
    """Endless batches of scored rollouts. Iteration i is a function of (seed, i) and the policy."""

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[EncodedPrompt],
        reward: Reward,
        sampling: Sampling,
        seed: int,
        greedy: bool = False,
        min_group_size: int = 1,
    ) -> None:
        self.policy, self.prompts, self.reward = policy, prompts, reward
        self.sampling, self.seed, self.greedy, self.min_group_size = sampling, seed, greedy, min_group_size

    def progress(self, iteration: int) -> float:
        """Prompts have no end of their own."""
        return 0.0

    def fingerprint(self) -> str:
        """A hash of the prompts' token ids and of their rows' columns, which the reward is given, in order. What JSON
        has no word for (an image, a date) is left out."""
        return digest((prompt.ids, _plain(prompt.row)) for prompt in self.prompts)

    def batch(self, iteration: int) -> list[EncodedPrompt]:
        """The prompts of one iteration: consecutive places in an endless row of permutations."""
        n, size = len(self.prompts), self.sampling.prompts_per_iteration
        places = range(iteration * size, (iteration + 1) * size)
        orders = {
            epoch: torch.randperm(n, generator=generator(self.seed, "order", epoch)).tolist()
            for epoch in range(places[0] // n, places[-1] // n + 1)
        }
        return [self.prompts[orders[place // n][place % n]] for place in places]

    def next(self, iteration: int, meter: Meter) -> Rollouts:
        batch = self.batch(iteration)
        ids = [prompt.ids for prompt in batch]
        rollouts = sample(self.policy, ids, self.sampling, derive(self.seed, "sample", iteration))
        self._charge(rollouts, meter)
        scores_PG = score(self.policy, batch, rollouts, self.reward)
        greedy_P = None
        if self.greedy:
            greedy = sample(self.policy, ids, self.sampling, 0, greedy=True)
            self._charge(greedy, meter)
            greedy_P = self._penalised(score(self.policy, batch, greedy, self.reward), greedy)[:, 0]
        return replace(
            rollouts,
            scores_PG=self._penalised(scores_PG, rollouts),
            learnable_PG=learnable(scores_PG, greedy_P, self.min_group_size),
            greedy_scores_P=greedy_P,
        )

    def _penalised(self, scores_PG: torch.Tensor, rollouts: Rollouts) -> torch.Tensor:
        return scores_PG - self.sampling.missing_eos_penalty * (~rollouts.ended_PG).to(scores_PG.dtype)

    def _charge(self, rollouts: Rollouts, meter: Meter) -> None:
        tokens, completions = rollouts.token_count, rollouts.P * rollouts.G
        meter.completions += completions
        meter.reward_calls += completions
        meter.generated_tokens += int(rollouts.mask_PGT.sum())
        meter.charge(self.policy.size, tokens)
        meter.charge(getattr(self.reward, "parameter_count", 0), tokens)
