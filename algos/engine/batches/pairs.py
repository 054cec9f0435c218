"""Recorded preference pairs → Rollouts: a pair is a group of two whose order is known."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from algos.engine.batches.prompts import SPECIAL_TEXT, room_for_prompts
from algos.engine.batches.responses import closed, has_words, split_tokens, unended
from algos.engine.budget import Meter
from algos.engine.errors import UserError
from algos.engine.models.policy import Policy
from algos.engine.rollouts import Rollouts, join_right, pad_left, pad_right
from algos.engine.scoring import score_reference
from algos.engine.seeding import digest, generator
from algos.engine.storage import read_tensors, write_tensors
from algos.engine.text.control import holds_special_text
from algos.engine.text.template import Text, render_pairs
from algos.engine.text.tokens import end_of
from algos.engine.versions import installed


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
    too_long: Literal["drop", "left"] = "drop",
    where: str = "",
) -> tuple[list[EncodedPair], dict[str, int]]:
    """Rows with `prompt, chosen, rejected` → pairs, and counts of what was dropped, cut or merged.

    The reasons, which of them drop a row, and what raises UserError are those of `encode_pair`, to which a row is
    `where[i]` if `where` says in what.
    """
    named = ((row, where and f"{where}[{i}]") for i, row in enumerate(rows))
    found = list(_encoded_pairs(policy, named, max_new_tokens, too_long))
    counts = Counter(reason for _, reasons in found for reason in reasons)
    return [pair for pair, _ in found if pair is not None], dict(counts)


def encode_pair(
    policy: Policy,
    row: Mapping[str, Any],
    max_new_tokens: int | None,
    too_long: Literal["drop", "left"] = "drop",
    where: str = "",
) -> tuple[EncodedPair | None, list[str]]:
    """One row's pair, None where nothing can be learned from it, and what is to be said of it: where there
    is none, the first is why.

    Responses are cut at `max_new_tokens`, if it is not None, and at the model's last position ("response truncated",
    and "longer than the model" where prompt and response have more tokens than the model positions), and behind their
    first EOS ("response cut at its first EOS", where words follow it: later turns). Every other ends in EOS, unless the
    row says in `chosen_truncated` or `rejected_truncated` that it was cut when it was sampled. A pair is dropped whose prompt has no
    tokens or leaves no room for a response, of which one has no tokens, or whose two responses are the same, before or
    after cutting. `too_long="left"` cuts a long prompt as `encode_prompts` does ("prompt truncated"), so that pairs are
    learned behind what they were sampled behind; without `max_new_tokens`, for the longer response and at most to half of
    the model's positions. Raises UserError for a token that the model has no embedding of; and, naming `where`, for a row
    without one of the columns, for one that is no text, and where a chat template refuses its messages.
    """
    return next(_encoded_pairs(policy, [(row, where)], max_new_tokens, too_long))


def _encoded_pairs(
    policy: Policy,
    rows: Iterable[tuple[Mapping[str, Any], str]],
    max_new_tokens: int | None,
    too_long: Literal["drop", "left"],
) -> Iterator[tuple[EncodedPair | None, list[str]]]:
    """`encode_pair` of each (row, where); their conversations go through the template together."""
    marks: deque[tuple[bool, bool]] = deque()

    def columns() -> Iterator[tuple[Text, Text, Text, str]]:
        for row, where in rows:
            found = _columns(row, where)
            marks.append((bool(row.get("chosen_truncated")), bool(row.get("rejected_truncated"))))
            yield found

    for texts in render_pairs(policy.tokenizer, columns()):
        yield _encoded(policy, texts, marks.popleft(), max_new_tokens, too_long)


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
    too_long: Literal["drop", "left"],
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
    ids = _shortened(policy, prompt_ids, longest, max_new_tokens) if too_long == "left" else prompt_ids
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


def recorded(
    policy: Policy, prompts: Sequence[list[int]], responses: Sequence[Sequence[list[int]]]
) -> Rollouts:
    """Given texts as Rollouts without scores: P prompts with G responses each, as token ids."""
    prompt_ids_PL, prompt_mask_PL = pad_left(list(prompts), policy.pad_id)
    ids_BT, mask_BT = pad_right([ids for group in responses for ids in group], policy.pad_id)
    shape, eos = (len(prompts), len(responses[0])), set(policy.eos_ids)
    return Rollouts(
        prompt_ids_PL=prompt_ids_PL,
        prompt_mask_PL=prompt_mask_PL,
        response_ids_PGT=ids_BT.unflatten(0, shape),
        mask_PGT=mask_BT.unflatten(0, shape),
        ended_PG=torch.tensor([[ids[-1] in eos for ids in group] for group in responses]),
    ).to(policy.device)


def collate(policy: Policy, pairs: Sequence[EncodedPair]) -> Rollouts:
    """Pairs as groups of two whose order is known: response 0 is the chosen one."""
    rollouts = recorded(
        policy, [pair.prompt for pair in pairs], [(pair.chosen, pair.rejected) for pair in pairs]
    )
    order_PG = torch.tensor([[1.0, 0.0]], device=policy.device).expand(len(pairs), 2)
    return replace(rollouts, scores_PG=order_PG)


class PairSource:
    """Batches of recorded pairs with the reference's log-probabilities, for a declared number of epochs."""

    def __init__(
        self,
        policy: Policy,
        pairs: Sequence[EncodedPair],
        batch_size: int,
        epochs: int,
        seed: int,
        ref_logps: Sequence[Tensor],
    ) -> None:
        self.policy, self.pairs, self.ref_logps = policy, pairs, ref_logps
        self.batch_size, self.epochs, self.seed = batch_size, epochs, seed
        self.per_epoch = math.ceil(len(pairs) / batch_size)

    def progress(self, iteration: int) -> float:
        """The fraction of the declared epochs done."""
        return iteration / (self.per_epoch * self.epochs)

    def fingerprint(self) -> str:
        """A hash of the pairs' token ids, in order."""
        return digest([(pair.prompt, pair.chosen, pair.rejected) for pair in self.pairs])

    def next(self, iteration: int, meter: Meter) -> Rollouts:
        epoch, batch = divmod(iteration, self.per_epoch)
        order = torch.randperm(len(self.pairs), generator=generator(self.seed, "order", epoch)).tolist()
        chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        rollouts = collate(self.policy, [self.pairs[i] for i in chosen])
        ref_logps_PGT = join_right([self.ref_logps[i][None] for i in chosen], width=rollouts.T)
        meter.completions += 2 * len(chosen)
        if epoch == 0:  # the reference reads each pair once, whatever the number of epochs
            meter.charge(self.policy.size, rollouts.token_count)
        return replace(rollouts, ref_logps_PGT=ref_logps_PGT.to(self.policy.device))


def reference_key(policy: Policy, pairs: Sequence[EncodedPair], temperature: float) -> str:
    """Names all that the reference's log-probabilities depend on: weights, configuration, token ids, temperature,
    and, in their last digits, what computes them."""
    versions = [installed(package) for package in ("torch", "transformers", "rlhf-compare")]
    tokens = [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]
    model = [policy.reference_digest(), policy.config_digest()]
    computed_by = [str(policy.dtype), policy.device.type, torch.get_num_threads(), *versions]
    return digest([*model, temperature, *computed_by, *tokens])


def reference_logps(
    policy: Policy, pairs: Sequence[EncodedPair], temperature: float, cache: Path | None = None
) -> list[Tensor]:
    """The reference's log-probabilities of every pair, [2, T_i] each; read from and written to `cache`,
    a folder shared by all arms and seeds, where one is given."""
    lengths = [max(len(pair.chosen), len(pair.rejected)) for pair in pairs]
    file = (
        cache / f"reference-logps-{reference_key(policy, pairs, temperature)}.safetensors" if cache else None
    )
    if file is not None and file.is_file():
        flat = read_tensors(file)["logps"]
        return [part.unflatten(0, (2, -1)) for part in flat.split([2 * length for length in lengths])]
    # Pairs of similar length go through the model together: less padding to compute.
    order = sorted(range(len(pairs)), key=lambda i: lengths[i] + len(pairs[i].prompt))
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), 64):
        chunk = order[start : start + 64]
        logps_PGT = score_reference(policy, collate(policy, [pairs[i] for i in chunk]), temperature).cpu()
        found.update({i: logps_PGT[row, :, : lengths[i]] for row, i in enumerate(chunk)})
    logps = [found[i].contiguous() for i in range(len(pairs))]
    if file is not None:
        write_tensors(file, {"logps": torch.cat([part.flatten() for part in logps])})
    return logps
