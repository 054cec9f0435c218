"""The stream of training prompts: in random order, a batch an iteration, sampled and scored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from algos.engine.budget import Meter
from algos.engine.calls import RewardError
from algos.engine.errors import UserError
from algos.engine.models.policy import Policy
from algos.engine.rewards import Reward, call_reward
from algos.engine.rollouts import Rollouts
from algos.engine.sampling import sample
from algos.engine.seeding import derive, digest, generator
from algos.engine.settings import Sampling
from algos.engine.text.control import holds_special_text
from algos.engine.text.template import Text, render_prompts
from algos.engine.text.tokens import decode_completion, encode, end_of

SPECIAL_TEXT = "text of a special token, which stays text"
"""What is said of a row where `holds_special_text`."""


@dataclass(frozen=True)
class EncodedPrompt:
    """A row of the data and its prompt's token ids."""

    row: Mapping[str, Any]
    ids: list[int]


def encode_prompts(
    policy: Policy,
    prompts: Iterable[Any],
    max_new_tokens: int,
    too_long: Literal["drop", "left"] = "drop",
    where: str = "",
) -> tuple[list[EncodedPrompt], dict[str, int]]:
    """Rows or texts → prompts that fit the model with their responses, and counts of those that don't.

    `too_long="left"` cuts a long prompt's beginning, but for its BOS, instead of dropping it; both are counted, and so is
    the text of special tokens in those that are kept (`holds_special_text`).
    Raises UserError where responses of `max_new_tokens` leave no room for any prompt and for a token that the model has
    no embedding of; and, naming the row as `where[i]` if `where` says in what, for one without a prompt, for a prompt
    that is no text, and where a chat template refuses its messages.
    """
    room = room_for_prompts(policy, max_new_tokens)
    rows = [item if isinstance(item, Mapping) else {"prompt": item} for item in prompts]
    named = (
        (_prompt_of(row, name), name) for i, row in enumerate(rows) for name in [where and f"{where}[{i}]"]
    )
    rendered = render_prompts(policy.tokenizer, named)
    found = [_encode(policy, row, text, room, too_long) for row, text in zip(rows, rendered, strict=True)]
    counts = Counter(reason for _, reasons in found for reason in reasons)
    return [prompt for prompt, _ in found if prompt is not None], dict(counts)


def room_for_prompts(policy: Policy, max_new_tokens: int) -> int | None:
    """The most tokens that a prompt may have; None where the model has no such limit. Raises UserError where responses
    leave no room."""
    limit = policy.max_positions
    if limit is None:
        return None
    if limit <= max_new_tokens:
        raise UserError(
            f"the model has {limit} positions and max_new_tokens is {max_new_tokens}: no room for a prompt. Lower --max-new-tokens."
        )
    return limit - max_new_tokens


def _prompt_of(row: Mapping[str, Any], where: str) -> Text:
    if "prompt" not in row:
        raise UserError(
            f"{where or 'a row'} has no prompt; got the columns {', '.join(map(str, row)) or 'none'}. Name it `prompt`."
        )
    prompt: Text = row["prompt"]
    return prompt


def _encode(
    policy: Policy, row: Mapping[str, Any], text: str, room: int | None, too_long: Literal["drop", "left"]
) -> tuple[EncodedPrompt | None, list[str]]:
    """A row's prompt, rendered, in at most `room` tokens, None where it is dropped, and what is to be said of it."""
    ids = encode(policy.tokenizer, text)
    policy.require_embedded(ids)
    if not ids:
        return None, ["prompt has no tokens"]
    said = [SPECIAL_TEXT] if holds_special_text(policy.tokenizer, text) else []
    if room is None or len(ids) <= room:
        return EncodedPrompt(row, ids), said
    if too_long == "left":
        return EncodedPrompt(row, end_of(policy.tokenizer, ids, room)), ["prompt truncated", *said]
    return None, ["prompt too long"]


def texts(
    policy: Policy, prompts: Sequence[EncodedPrompt], rollouts: Rollouts
) -> tuple[list[list[int]], list[str]]:
    """Completion ids and texts of all B responses, group after group."""
    ids_BT, lengths_B = (
        rollouts.response_ids_PGT.flatten(0, 1).tolist(),
        rollouts.lengths_PG.flatten().tolist(),
    )
    ids = [row[:length] for row, length in zip(ids_BT, lengths_B, strict=True)]
    owners = [prompt for prompt in prompts for _ in range(rollouts.G)]
    return ids, [
        decode_completion(policy.tokenizer, owner.ids, response)
        for owner, response in zip(owners, ids, strict=True)
    ]


def score(
    policy: Policy, prompts: Sequence[EncodedPrompt], rollouts: Rollouts, reward: Reward
) -> torch.Tensor:
    """Scores [P, G] of the responses, NaN where the reward left one unscored; raises RewardError."""
    ids, completions = texts(policy, prompts, rollouts)
    rows = [prompt.row for prompt in prompts for _ in range(rollouts.G)]
    scores = call_reward(reward, rows, completions, ids, unscored=True)
    return torch.tensor(scores, device=policy.device).unflatten(0, (rollouts.P, rollouts.G))


def learnable(scores_PG: torch.Tensor, greedy_P: torch.Tensor | None, group_size: int) -> torch.Tensor | None:
    """[P, G] True where there is enough to learn from: a score, `group_size` of them in the group, one of the
    greedy response where there is one. None where that holds of every response.

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
    scored_PG = scored_PG & (scored_PG.sum(-1, keepdim=True) >= group_size)
    if not bool(scored_PG.any()):
        raise RewardError(
            f"the reward left too many responses unscored: no prompt has {group_size} to learn from. "
            "Give a reward that scores more of them, or a larger --group-size."
        )
    return None if bool(scored_PG.all()) else scored_PG


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
        group_size: int = 1,
    ) -> None:
        self.policy, self.prompts, self.reward = policy, prompts, reward
        self.sampling, self.seed, self.greedy, self.group_size = sampling, seed, greedy, group_size

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
            learnable_PG=learnable(scores_PG, greedy_P, self.group_size),
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
