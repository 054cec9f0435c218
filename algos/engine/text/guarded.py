"""Conversations through a chat template, many at once, with a guard in the added tokens that someone typed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from algos.engine.errors import UserError, one_line
from algos.engine.text.control import Rendered, Span, control_patterns
from algos.engine.text.rendering import Conversation, render_templates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message: TypeAlias = dict[str, Any]
T = TypeVar("T")

# For base models, which have no template: one turn a line, roles spelt out, a space before each content
# unless it brings its own white space. "User: Hi.\nAssistant:" asks, " Hello." answers.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '' if loop.first else '\n' }}{{ message['role'] | capitalize }}:"
    "{{ '' if message['content'][:1] is in ['', ' ', '\n', '\t'] else ' ' }}{{ message['content'] }}"
    "{% endfor %}"
    "{{ '\nAssistant:' if add_generation_prompt else '' }}"
)


@dataclass
class Plan(Generic[T]):
    """What a row's conversations are to be rendered for."""

    finish: Callable[[list[Rendered]], T]
    template: Template | None = None
    """None where there is nothing to render."""
    asked: list[Conversation] = field(default_factory=list)

    @property
    def characters(self) -> int:
        return sum(len(message["content"]) for one in self.asked for message in one.messages)


_AT_ONCE = 16  # rows: whatever their template writes must find room
_CHARACTERS = 2**20  # of messages


def rendered(plans: Iterable[Plan[T]]) -> Iterator[T]:
    """What each plan ends in. An error comes in its turn, behind what lies before it."""
    rest, fault = iter(plans), None
    while fault is None:
        some: list[Plan[T]] = []
        try:
            while len(some) < _AT_ONCE and sum(plan.characters for plan in some) < _CHARACTERS:
                some.append(next(rest))
        except UserError as error:
            fault = error
        except StopIteration:
            if not some:
                return
        yield from _at_once(some)
    raise fault


def _at_once(plans: Sequence[Plan[T]]) -> Iterator[T]:
    """All plans of one tokenizer; raises UserError in place of the first that its template refuses."""
    asked = [conversation for plan in plans for conversation in plan.asked]
    template = next((plan.template for plan in plans if plan.template is not None), None)
    texts, error = render_templates(template.source, asked, template.variables) if template else ([], None)
    for plan in plans:
        mine, texts = texts[: len(plan.asked)], texts[len(plan.asked) :]
        if plan.template is None:
            yield plan.finish([])
        elif len(mine) == len(plan.asked):
            yield plan.finish([plan.template.read(text) for text in mine])
        else:
            raise plan.template.refusal(error)


class Template:
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

    def opened(self, messages: Sequence[Message]) -> Conversation:
        """To be rendered with a generation prompt, or left open where the assistant has begun."""
        continues = messages[-1]["role"] == "assistant"
        return self.asked(messages, "continue_final_message" if continues else "add_generation_prompt")

    def asked(self, messages: Sequence[Message], *options: str) -> Conversation:
        """To be rendered whole, or as the options say, with its guards."""
        guarded = [
            self._guarded(message, self.special if message["role"] == "assistant" else self.control)
            for message in messages
        ]
        return Conversation(guarded, options)

    def refusal(self, error: UserError | None) -> UserError:
        """The error that the template gave, with the row."""
        return UserError(
            f"{self.where or 'a conversation'}: the model's chat template refuses these messages "
            f"({error}). Fix the row, or use a model whose template takes it."
        )

    def _guarded(self, value: Any, tokens: re.Pattern[str]) -> Any:
        if isinstance(value, str):
            return tokens.sub(lambda found: "".join(char + self.guard for char in found[0]), value)
        if isinstance(value, Mapping):
            return {key: self._guarded(item, tokens) for key, item in value.items() if item is not None}
        return [self._guarded(item, tokens) for item in value] if isinstance(value, (list, tuple)) else value

    def read(self, text: str) -> Rendered:
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
