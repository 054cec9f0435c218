"""Train, validation and test by a hash of the prompt: the same for every file, so that none leaks."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from algos.engine.errors import UserError
from algos.engine.text.template import Text
from eval.data.rows import Row

SplitName: TypeAlias = Literal["train", "validation", "test"]

TRAIN_SHARE = 0.8
VALIDATION_SHARE = 0.1  # the rest is for the test


@dataclass(frozen=True)
class Splits:
    """Every row given, in exactly one of three."""

    train: list[Row] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)
    test: list[Row] = field(default_factory=list)


def normalised_prompt(prompt: Text) -> str:
    """What counts as the same prompt: Unicode NFKC, case folded, white space collapsed; of messages, roles
    and contents.

    Wide on purpose: two prompts that only look alike lose nothing by standing in the same split, two that
    are alike and stand in different ones leak. A single user's message counts as its text, so that a
    conversational file and a plain one agree.
    """
    if isinstance(prompt, str):
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", prompt).casefold())
        return " ".join(folded.split())
    turns = [[message["role"], normalised_prompt(message["content"])] for message in prompt]
    if len(turns) == 1 and turns[0][0] == "user":
        return turns[0][1]
    return json.dumps(turns, ensure_ascii=False)


def split_of(prompt: Text) -> SplitName:
    """The split of a prompt: a hash of it in [0, 1) against the shares 80 / 10 / 10."""
    share = _share(prompt)
    if share < TRAIN_SHARE:
        return "train"
    return "validation" if share < TRAIN_SHARE + VALIDATION_SHARE else "test"


def _share(prompt: Text) -> float:
    digest = hashlib.blake2b(normalised_prompt(prompt).encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_rows(
    rows: Sequence[Row],
    test_prompts: Iterable[Text] | None = None,
    needed: Sequence[SplitName] = ("train", "validation", "test"),
) -> Splits:
    """Rows by the split of their prompt; their order is kept.

    With `test_prompts` (the prompts of a file that the user chose for the test) exactly the rows with one
    of these prompts are test rows, perhaps none, and the others are divided between training and
    validation. Raises `UserError` where a split that is `needed` stays empty: no prompt is moved to fill
    it, since the same prompt in another file would then be on the other side.
    """
    chosen = None if test_prompts is None else {normalised_prompt(prompt) for prompt in test_prompts}
    splits = Splits()
    for row in rows:
        prompt: Text = row.values["prompt"]
        name: SplitName = split_of(prompt)
        if chosen is not None:
            in_test = normalised_prompt(prompt) in chosen
            name = "test" if in_test else "validation" if name == "validation" else "train"
        getattr(splits, name).append(row)
    _require(splits, [name for name in needed if chosen is None or name != "test"], rows, chosen is not None)
    return splits


def _require(splits: Splits, needed: Sequence[SplitName], rows: Sequence[Row], test_is_given: bool) -> None:
    empty = [name for name in needed if not getattr(splits, name)]
    if not empty:
        return
    if test_is_given and rows and not (splits.train or splits.validation):
        raise UserError(
            f"every prompt of {rows[0].source} is a test prompt, so none is left to train on. Name fewer with "
            "--test-prompts, or give more prompts."
        )
    distinct = len({normalised_prompt(row.values["prompt"]) for row in rows})
    source = rows[0].source if rows else "the data"
    remedy = "Give more prompts (50 distinct ones are nearly always enough)"
    if "test" in empty and not test_is_given:
        remedy += ", or name the test prompts with --test-prompts FILE"
    raise UserError(
        f"prompts are divided {TRAIN_SHARE:.0%} / {VALIDATION_SHARE:.0%} / "
        f"{1 - TRAIN_SHARE - VALIDATION_SHARE:.0%} by a hash; none of the {distinct} distinct prompts of "
        f"{source} fell into {' or '.join(empty)}. {remedy}."
    )
