"""Preference pairs as token ids: a prompt and two responses, tokenised together."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from algos.engine.batches.prompts import SPECIAL_TEXT, room_for_prompts
from algos.engine.batches.responses import closed, has_words, split_tokens, unended
from algos.engine.errors import UserError
from algos.engine.models.policy import Policy
from algos.engine.settings import Truncation
from algos.engine.text.control import holds_special_text
from algos.engine.text.template import Text, render_pairs
from algos.engine.text.tokens import end_of


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a prompt and its two responses. A response that was not cut ends in EOS."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def encode_pairs(
    policy: Policy,
    rows: Iterable[Mapping[str, Any]],
    max_new_tokens: int | None,
    truncate_prompts: Truncation = "drop",
    where: str = "",
) -> tuple[list[EncodedPair], dict[str, int]]:
    """Rows with `prompt, chosen, rejected` → pairs, and counts of what was dropped, cut or merged.

    The reasons, which of them drop a row, and what raises UserError are those of `encode_pair`, to which a row is
    `where[i]` if `where` says in what.
    """
    named = ((row, where and f"{where}[{i}]") for i, row in enumerate(rows))
    found = list(_encoded_pairs(policy, named, max_new_tokens, truncate_prompts))
    counts = Counter(reason for _, reasons in found for reason in reasons)
    return [pair for pair, _ in found if pair is not None], dict(counts)


def encode_pair(
    policy: Policy,
    row: Mapping[str, Any],
    max_new_tokens: int | None,
    truncate_prompts: Truncation = "drop",
    where: str = "",
) -> tuple[EncodedPair | None, list[str]]:
    """One row's pair and notes on it. A row that nothing can be learned from has no pair (None), and its first note is why.

    Responses are cut at `max_new_tokens`, if it is not None, and at the model's last position ("response truncated",
    and "longer than the model" where prompt and response have more tokens than the model positions), and behind their
    first EOS ("response cut at its first EOS", where words follow it: later turns). Every other ends in EOS, unless the
    row says in `chosen_truncated` or `rejected_truncated` that it was cut when it was sampled. A pair is dropped whose prompt has no
    tokens or leaves no room for a response, of which one has no tokens, or whose two responses are the same, before or
    after cutting. `truncate_prompts="left"` cuts a long prompt as `encode_prompts` does ("prompt truncated"), so that pairs
    are learned behind what they were sampled behind; without `max_new_tokens`, for the longer response and at most to half
    of the model's positions. Raises UserError for a token that the model has no embedding of; and, naming `where`, for a row
    without one of the columns, for one that is no text, and where a chat template refuses its messages.
    """
    return next(_encoded_pairs(policy, [(row, where)], max_new_tokens, truncate_prompts))


def _encoded_pairs(
    policy: Policy,
    rows: Iterable[tuple[Mapping[str, Any], str]],
    max_new_tokens: int | None,
    truncate_prompts: Truncation,
) -> Iterator[tuple[EncodedPair | None, list[str]]]:
    """`encode_pair` of each (row, where); their conversations go through the template together."""
    marks: deque[tuple[bool, bool]] = deque()

    def columns() -> Iterator[tuple[Text, Text, Text, str]]:
        for row, where in rows:
            found = _columns(row, where)
            marks.append((row.get("chosen_truncated") is True, row.get("rejected_truncated") is True))
            yield found

    for texts in render_pairs(policy.tokenizer, columns()):
        yield _encoded(policy, texts, marks.popleft(), max_new_tokens, truncate_prompts)


def _columns(row: Mapping[str, Any], where: str) -> tuple[Text, Text, Text, str]:
    if not isinstance(row, Mapping):
        raise UserError(
            f"{where or 'a pair'} is a {type(row).__name__}. Give a dict with prompt, chosen and rejected."
        )
    missing = [name for name in ("prompt", "chosen", "rejected") if name not in row]
    if missing:
        raise UserError(
            f"{where or 'a pair'} has no {missing[0]}; got the columns {', '.join(map(str, row)) or 'none'}. "
            "Give prompt, chosen and rejected."
        )
    return row["prompt"], row["chosen"], row["rejected"], where


def _encoded(
    policy: Policy,
    texts: Mapping[str, str],
    truncated: tuple[bool, bool],
    max_new_tokens: int | None,
    truncate_prompts: Truncation,
) -> tuple[EncodedPair | None, list[str]]:
    prompt, chosen, rejected = texts["prompt"], texts["chosen"], texts["rejected"]
    if chosen == rejected:
        return None, ["identical responses"]
    if not chosen or not rejected:
        return None, ["empty response"]
    prompt_ids, chosen_ids, merged_1 = split_tokens(policy, prompt, chosen)
    _, rejected_ids, merged_2 = split_tokens(policy, prompt, rejected, prompt_ids)
    whole = [
        unended(policy, ids) if was_cut else closed(policy, ids) if ids else []
        for ids, was_cut in zip((chosen_ids, rejected_ids), truncated, strict=True)
    ]
    if not all(whole):
        return None, ["empty response"]
    longest = max(map(len, whole))
    ids = prompt_ids
    if truncate_prompts == "left":
        ids = _shortened(policy, prompt_ids, longest, max_new_tokens)
    limit = policy.max_positions
    room = math.inf if limit is None else limit - len(ids)
    if not ids:
        return None, ["prompt has no tokens"]
    if room < 1:
        return None, ["prompt too long"]
    width = int(min(max_new_tokens or longest, room))
    pair = EncodedPair(ids, whole[0][:width], whole[1][:width])
    same = pair.chosen == pair.rejected
    behind_eos = [ids[len(kept) :] for ids, kept in zip((chosen_ids, rejected_ids), whole, strict=True)]
    said = {
        "identical once truncated": same,
        "prompt truncated": len(ids) < len(prompt_ids) and not same,
        "response truncated": longest > width and not same,
        "response cut at its first EOS": not same and any(has_words(policy, ids) for ids in behind_eos),
        "longer than the model": longest > room,
        "boundary merge": (merged_1 or merged_2) and not same,
        SPECIAL_TEXT: not same and any(holds_special_text(policy.tokenizer, text) for text in texts.values()),
    }
    return None if same else pair, [reason for reason, applies in said.items() if applies]


def _shortened(policy: Policy, ids: list[int], longest: int, max_new_tokens: int | None) -> list[int]:
    """A prompt's end, where it leaves no room for responses of `max_new_tokens`, or of its `longest` without a limit."""
    limit = policy.max_positions
    if max_new_tokens is None:
        room = None if limit is None else max(limit - longest, limit // 2)
    else:
        room = room_for_prompts(policy, max_new_tokens)
    return ids if room is None else end_of(policy.tokenizer, ids, room)
