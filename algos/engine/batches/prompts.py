"""Prompts as token ids, and the texts of what was sampled behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from algos.engine.errors import UserError
from algos.engine.models.policy import Policy
from algos.engine.rollouts import Rollouts
from algos.engine.settings import Truncation
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
    truncate_prompts: Truncation = "drop",
    where: str = "",
) -> tuple[list[EncodedPrompt], dict[str, int]]:
    """Rows or texts → prompts that fit the model with their responses, and counts of those that don't.

    `truncate_prompts="left"` cuts a long prompt's beginning, but for its BOS, instead of dropping it; both are counted, and
    so is the text of special tokens in those that are kept (`holds_special_text`).
    Raises UserError where responses of `max_new_tokens` leave no room for any prompt and for a token that the model has
    no embedding of; and, naming the row as `where[i]` if `where` says in what, for one without a prompt, for a prompt
    that is no text, and where a chat template refuses its messages.
    """
    room = room_for_prompts(policy, max_new_tokens)
    rows = [item if isinstance(item, Mapping) else {"prompt": item} for item in prompts]
    names = [where and f"{where}[{i}]" for i in range(len(rows))]
    named = ((_prompt_of(row, name), name) for row, name in zip(rows, names, strict=True))
    rendered = render_prompts(policy.tokenizer, named)
    found = [
        _encode(policy, row, text, room, truncate_prompts) for row, text in zip(rows, rendered, strict=True)
    ]
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
    policy: Policy, row: Mapping[str, Any], text: str, room: int | None, truncate_prompts: Truncation
) -> tuple[EncodedPrompt | None, list[str]]:
    """A row's prompt, rendered, in at most `room` tokens, None where it is dropped, and what is to be said of it."""
    ids = encode(policy.tokenizer, text)
    policy.require_embedded(ids)
    if not ids:
        return None, ["prompt has no tokens"]
    said = [SPECIAL_TEXT] if holds_special_text(policy.tokenizer, text) else []
    if room is None or len(ids) <= room:
        return EncodedPrompt(row, ids), said
    if truncate_prompts == "left":
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
