"""Between text and token ids: one BOS, every declared EOS, and completions that keep their leading space."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from algos.engine.text.control import ids_in_front, text_ids
from algos.engine.text.template import Text, render_prompt


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token id that ends a response: of the generation config, the model config and the tokenizer."""
    config = model.config
    declared = [getattr(model, "generation_config", None), config, config.get_text_config(), tokenizer]
    found: set[int] = set()
    for place in declared:
        value = getattr(place, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else value or [])
    return sorted(found)


def pad_id(tokenizer: PreTrainedTokenizerBase, rows: int) -> int:
    """An id below `rows`, those of the model's embedding, to fill padding with; masks are explicit, so any will do."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id):
        if isinstance(candidate, int) and candidate < rows:
            return candidate
    return 0


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids with exactly one BOS where the tokenizer has one to add, and no EOS behind.

    A rendered chat template may begin with BOS already, and some tokenizers append EOS: a prompt that ends in
    EOS would be over before it began. Special tokens in a plain `str` are characters (see `text_ids`).
    """
    ids, bos = [*ids_in_front(tokenizer), *text_ids(tokenizer, text)], tokenizer.bos_token_id
    while bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos:
        ids = ids[1:]
    return ids


def end_of(tokenizer: PreTrainedTokenizerBase, ids: list[int], room: int) -> list[int]:
    """The last of a text's tokens, at most `room`, behind the BOS (BERT's [CLS]) that it begins with."""
    if len(ids) <= room:
        return ids
    front = ids_in_front(tokenizer) or [tokenizer.bos_token_id]
    kept = front if ids[: len(front)] == front and len(front) < room else []
    return [*kept, *ids[len(ids) - room + len(kept) :]]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Text, where: str = "") -> list[int]:
    """Token ids of a prompt, chat messages rendered through the template with one generation prompt. Raises as
    `render_prompt`."""
    return encode(tokenizer, render_prompt(tokenizer, prompt, where))


def decode_completion(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], response_ids: list[int]
) -> str:
    """The response's text as it follows the prompt's, without special tokens.

    Decoded alone, a response may lose its leading space (SentencePiece-like decoders strip it), so it is
    read off the end of prompt and response decoded together.
    """
    prefix = str(tokenizer.decode(prompt_ids, skip_special_tokens=True))
    whole = str(tokenizer.decode(prompt_ids + response_ids, skip_special_tokens=True))
    if whole.startswith(prefix):
        return whole[len(prefix) :]
    return str(tokenizer.decode(response_ids, skip_special_tokens=True))


def as_completion(prompt: Text, text: str) -> str | list[dict[str, str]]:
    """A completion as rewards expect it: messages where the prompt is a conversation, else text."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
