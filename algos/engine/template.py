"""Conversations → text: the tokenizer's own chat template, once, with one generation prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from algos.engine.control import Rendered, Span, control_patterns, ids_in_front
from algos.engine.errors import UserError, one_line
from algos.engine.rendering import render_template

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
    to be tokenised like any other: a BOS that the tokenizer adds by itself is not in it, and what the
    template wrote is told from what the messages say (see `Rendered`). Raises `UserError` naming `where`
    (file:line) for what is neither a text nor messages, and where the template refuses them or does not end.
    """
    if isinstance(prompt, str):
        return prompt
    _require_messages(prompt, "prompt", where)
    return _without_bos(tokenizer, _Template(tokenizer, where, [prompt]).open(prompt))


def render_pair(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, chosen: Text, rejected: Text, where: str = ""
) -> dict[str, str]:
    """`prompt`, `chosen`, `rejected` as text; the responses are what follows the prompt. Strings stay.

    As TRL's `apply_chat_template`, the prompt is what the rendered prompt and both whole dialogues share:
    some templates open a thought in the generation prompt that they leave out of a finished dialogue. A
    response ends without the tokenizer's EOS: whoever tokenises it adds one. Raises as `render_prompt`, and
    where only some of the three are strings.
    """
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    for name, value in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if not isinstance(value, str):
            _require_messages(value, name, where)
    if isinstance(prompt, str) or isinstance(chosen, str) or isinstance(rejected, str):
        raise UserError(f"{where or 'a pair'} mixes strings and message lists. Give all three in one form.")
    dialogues = [[*prompt, *response] for response in (chosen, rejected)]
    template = _Template(tokenizer, where, dialogues)
    whole = [template.render(dialogue) for dialogue in dialogues]
    shared = template.open(prompt)
    for text in whole:
        shared = shared[: common_length(shared, text)]
    responses = [_without_eos(tokenizer, text[len(shared) :]) for text in whole]
    return {"prompt": _without_bos(tokenizer, shared), "chosen": responses[0], "rejected": responses[1]}


def _require_messages(value: Any, name: str, where: str) -> None:
    """Raises UserError naming `where` for what is no list of messages with a role and a content that are strings, and
    for a prompt without any."""
    fault = _fault(value)
    if not fault and name == "prompt" and len(value) == 0:
        fault = "no messages"
    if fault:
        raise UserError(
            f"{where or 'a row'}: {name} must be a text or chat messages; got {fault}. "
            'Give a string, or a list of {"role": …, "content": …}, both strings.'
        )


def _fault(value: Any) -> str:
    """What keeps a value from being a list of messages, if anything does. pandas reads lists as arrays."""
    if isinstance(value, (Mapping, bytes)) or not (
        hasattr(value, "__len__") and hasattr(value, "__getitem__")
    ):
        return _kind(value)
    for message in value:
        if not isinstance(message, Mapping):
            return f"a list with {_kind(message)} in it"
        for key in ("role", "content"):
            if key not in message:
                return f"a message without {key}"
            if not isinstance(message[key], str):
                return f"a message whose {key} is {_kind(message[key])}"
    return ""


def _kind(value: Any) -> str:
    return str(value) if value is None or isinstance(value, (int, float)) else f"a {type(value).__name__}"


def with_options(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, bool | int | str]) -> str:
    """The tokenizer's template with some of its variables fixed, such as Qwen 3's `enable_thinking`.

    Raises UserError where there is no template, or it has no such variable.
    """
    template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    for name in options:
        if not name.isidentifier() or not re.search(rf"\b{name}\b", template):
            raise UserError(
                f"the model's chat template has no variable {name!r}. Leave it out of --template-options."
            )
    fixed = (f"{{% set {name} = {json.dumps(value)} %}}" for name, value in options.items())
    return "".join(fixed) + template


def common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items (characters, messages) two sequences begin with in common."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


class _Template:
    """A tokenizer's template, for conversations in which someone may have typed added tokens.

    Before rendering a guard is put into these, so that afterwards those without it are the template's own.
    Special tokens are guarded in every message; others that the template writes, the marks of a thought, say,
    not in the assistant's, whose recorded words may well contain them.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, where: str, conversations: Sequence[Sequence[Message]]
    ) -> None:
        self.where = where
        try:
            self.source = tokenizer.get_chat_template() if tokenizer.chat_template else PLAIN_TEMPLATE
        except ValueError as error:  # several templates, none of them the default
            raise UserError(f"the model's chat template cannot be chosen: {one_line(error)}") from None
        self.variables = tokenizer.special_tokens_map
        self.special, self.control = control_patterns(tokenizer, self.source)
        text = self.source + json.dumps(conversations, ensure_ascii=False, default=str)
        self.guard = next(char for char in map(chr, range(0xF0000, 0x10FFFE)) if char not in text)

    def open(self, messages: Sequence[Message]) -> Rendered:
        """With a generation prompt, or left open where the assistant has begun."""
        continues = messages[-1]["role"] == "assistant"
        return self.render(messages, "continue_final_message" if continues else "add_generation_prompt")

    def render(self, messages: Sequence[Message], *options: str) -> Rendered:
        guarded = [
            self._guarded(message, self.special if message["role"] == "assistant" else self.control)
            for message in messages
        ]
        try:
            text = render_template(self.source, guarded, self.variables, **dict.fromkeys(options, True))
        except UserError as error:
            raise UserError(
                f"{self.where or 'a conversation'}: the model's chat template refuses these messages "
                f"({error}). Mend the row, or use a model whose template takes it."
            ) from None
        return self._unguarded(text)

    def _guarded(self, value: Any, tokens: re.Pattern[str]) -> Any:
        if isinstance(value, str):
            return tokens.sub(lambda found: "".join(char + self.guard for char in found[0]), value)
        if isinstance(value, Mapping):
            return {key: self._guarded(item, tokens) for key, item in value.items() if item is not None}
        return [self._guarded(item, tokens) for item in value] if isinstance(value, (list, tuple)) else value

    def _unguarded(self, text: str) -> Rendered:
        """The text without guards, and where in it added tokens stand."""
        plain, spans = "", []
        for i, piece in enumerate(re.split(f"((?:[^{self.guard}]{self.guard})+)", text)):
            was_typed, piece = i % 2 == 1, piece.replace(self.guard, "")
            for found in self.control.finditer(piece):
                # A special token's characters need no span: nothing takes them for the token.
                if not (was_typed and self.special.fullmatch(found[0])):
                    spans.append(Span(len(plain) + found.start(), len(plain) + found.end(), not was_typed))
            plain += piece
        return Rendered(plain, tuple(spans))


def _without_bos(tokenizer: PreTrainedTokenizerBase, text: Rendered) -> Rendered:
    """Many templates write BOS out, and many tokenizers add it: together the model would see two."""
    bos = tokenizer.bos_token
    written = bos and Span(0, len(bos), True) in text.spans and text.startswith(bos)
    return text[len(bos) :] if written and ids_in_front(tokenizer)[:1] == [tokenizer.bos_token_id] else text


def _without_eos(tokenizer: PreTrainedTokenizerBase, text: Rendered) -> Rendered:
    """Without the template's EOS and the line end after it; what someone typed is left alone."""
    eos, end = tokenizer.eos_token, len(text.rstrip())
    written = eos and Span(end - len(eos), end, True) in text.spans and text[:end].endswith(eos)
    return text[: end - len(eos)] if written else text
