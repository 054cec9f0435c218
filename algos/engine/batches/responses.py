"""A recorded response's token ids, behind those of its prompt and with its end."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from algos.engine.models.policy import Policy
from algos.engine.text.control import text_ids
from algos.engine.text.tokens import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANCHORS = "\n.:0"


def split_tokens(
    policy: Policy, prompt: str, response: str, prompt_ids: list[int] | None = None
) -> tuple[list[int], list[int], bool]:
    """(prompt ids, response ids, merged). The two are tokenised together, as the model would read them.

    Where a token straddles the boundary (`merged`), the response's ids are those of its own text, in which that
    token at most is split. `prompt_ids` are the prompt's, where they are known already. Raises UserError for a token that
    the model has no embedding of.
    """
    prompt_ids = encode(policy.tokenizer, prompt) if prompt_ids is None else prompt_ids
    joint = encode(policy.tokenizer, prompt + response)
    policy.require_embedded(joint)
    if joint[: len(prompt_ids)] == prompt_ids:
        return prompt_ids, joint[len(prompt_ids) :], False
    return prompt_ids, _own_ids(policy.tokenizer, prompt_ids, response), True


def _own_ids(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], response: str) -> list[int]:
    """Ids of a response that read as it does behind the prompt's.

    Tokenised alone, unless the tokenizer puts a space before every text, as SentencePiece's do: that would stand
    between prompt and response. Then as it is tokenised behind a character with which it does not merge.
    """
    alone = text_ids(tokenizer, response)
    if _reads_as(tokenizer, prompt_ids, alone, response):
        return alone
    for character in _ANCHORS:
        front, whole = text_ids(tokenizer, character), text_ids(tokenizer, character + response)
        ids = whole[len(front) :]
        if whole[: len(front)] == front and _reads_as(tokenizer, prompt_ids, ids, response):
            return ids
    return alone


def _reads_as(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], response_ids: list[int], response: str
) -> bool:
    """Whether the ids, behind the prompt's, are decoded to the response."""
    prefix, whole = (
        str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        for ids in (prompt_ids, prompt_ids + response_ids)
    )
    return whole == prefix + response


def closed(policy: Policy, ids: list[int]) -> list[int]:
    """A response with one EOS at its end: cut behind the first of any declared one, else EOS appended
    (a model without any EOS has responses without end). Raises UserError for one that the model has no embedding of."""
    eos = policy.eos_ids
    ends = [i for i, token in enumerate(ids) if token in eos]
    if ends:
        return ids[: ends[0] + 1]
    own = policy.tokenizer.eos_token_id
    end = [own] if own is not None else eos[:1]
    policy.require_embedded(end)
    return [*ids, *end]


def unended(policy: Policy, ids: list[int]) -> list[int]:
    """A response that was cut before its end: without the EOS that a chat template writes behind it."""
    return list(takewhile(lambda token: token not in policy.eos_ids, ids))


def has_words(policy: Policy, ids: list[int]) -> bool:
    """Whether ids say more than special tokens and white space, such as the line end that templates write behind EOS."""
    return bool(ids) and bool(str(policy.tokenizer.decode(ids, skip_special_tokens=True)).strip())
