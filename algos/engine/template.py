"""Conversations → text: the tokenizer's own chat template, once, with one generation prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from algos.engine.errors import UserError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message: TypeAlias = dict[str, Any]
Text: TypeAlias = str | list[Message]
"""A plain text, or a list of chat messages (`role`, `content`)."""

# For base models, which have no template: one turn a line, roles spelt out, a space before each content
# unless it brings its own white space. "User: Hi.\nAssistant:" asks, " Hello." answers.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '' if loop.first else '\n' }}{{ message['role'] | capitalize }}:"
    "{{ '' if message['content'][:1] is in ['', ' ', '\n', '\t'] else ' ' }}{{ message['content'] }}"
    "{% endfor %}"
    "{{ '\nAssistant:' if add_generation_prompt else '' }}"
)


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Text, where: str = "") -> str:
    """The text that the model goes on from. A string is returned as it is.

    A list of messages goes through the tokenizer's template (`PLAIN_TEMPLATE` where it has none) with a
    generation prompt; one that ends with the assistant's words is left open, to be continued. The text is
    to be tokenised like any other: a BOS that the tokenizer adds by itself is not in it. Raises `UserError`
    naming `where` (file:line) where the template refuses the messages.
    """
    if isinstance(prompt, str):
        return prompt
    return _without_bos(tokenizer, _render_open(tokenizer, prompt, where))


def render_pair(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, chosen: Text, rejected: Text, where: str = ""
) -> dict[str, str]:
    """`prompt`, `chosen`, `rejected` as text; the responses are what follows the prompt. Strings stay.

    As TRL's `apply_chat_template`, the prompt is what the rendered prompt and both whole dialogues share:
    some templates open a thought in the generation prompt that they leave out of a finished dialogue. A
    response ends without the tokenizer's EOS: whoever tokenises it adds one.
    """
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if isinstance(prompt, str) or isinstance(chosen, str) or isinstance(rejected, str):
        raise UserError(f"{where or 'a pair'} mixes strings and message lists. Give all three in one form.")
    whole = [_render(tokenizer, [*prompt, *response], where) for response in (chosen, rejected)]
    shared = _render_open(tokenizer, prompt, where)
    for text in whole:
        shared = shared[: common_length(shared, text)]
    responses = [_without_eos(tokenizer, text[len(shared) :]) for text in whole]
    return {"prompt": _without_bos(tokenizer, shared), "chosen": responses[0], "rejected": responses[1]}


def common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items (characters, messages) two sequences begin with in common."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def _render_open(tokenizer: PreTrainedTokenizerBase, messages: list[Message], where: str) -> str:
    continues = messages[-1]["role"] == "assistant"
    options = {"continue_final_message": True} if continues else {"add_generation_prompt": True}
    return _render(tokenizer, messages, where, **options)


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[Message], where: str, **options: Any) -> str:
    template = None if tokenizer.chat_template else PLAIN_TEMPLATE
    try:
        text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
    except Exception as error:  # a template is a program of its own: it can raise anything
        raise UserError(
            f"{where or 'a conversation'}: the model's chat template refuses these messages "
            f"({one_line(error)}). Mend the row, or use a model whose template takes it."
        ) from None
    return str(text)


def _without_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Many templates write BOS out, and many tokenizers add it: together the model would see two."""
    bos = tokenizer.bos_token
    if not bos or not text.startswith(bos):
        return text
    added = list(tokenizer("a")["input_ids"])
    return text[len(bos) :] if added[:1] == [tokenizer.bos_token_id] else text


def _without_eos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The template's EOS and the line end after it; what a user wrote is left alone without a template."""
    eos = tokenizer.eos_token
    if not tokenizer.chat_template or not eos or not text.rstrip().endswith(eos):
        return text
    return text.rstrip().removesuffix(eos)
