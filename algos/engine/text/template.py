"""Conversations → text: the tokenizer's own chat template, once, with one generation prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from algos.engine.errors import UserError
from algos.engine.text.control import Rendered, Span, ids_in_front
from algos.engine.text.guarded import Message, Plan, Template, rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Text: TypeAlias = str | list[Message]
"""A plain text, or a list of chat messages (`role`, `content`)."""


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Text, where: str = "") -> str:
    """The text that the model goes on from. A string is returned as it is.

    A list of messages goes through the tokenizer's template (`PLAIN_TEMPLATE` where it has none) with a
    generation prompt; one that ends with the assistant's words is left open, to be continued. The text is
    to be tokenised like any other: a BOS that the tokenizer adds by itself is not in it, and what the
    template wrote is told from what the messages say (see `Rendered`). Raises `UserError` naming `where`
    (file:line) for what is neither a text nor messages, and where the template refuses them or does not end.
    """
    return next(render_prompts(tokenizer, [(prompt, where)]))


def render_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Iterable[tuple[Text, str]]) -> Iterator[str]:
    """`render_prompt` of each (prompt, where), in order; many go through the template together, which is faster."""
    return rendered(_prompt(tokenizer, prompt, where) for prompt, where in prompts)


def _prompt(tokenizer: PreTrainedTokenizerBase, prompt: Text, where: str) -> Plan[str]:
    if isinstance(prompt, str):
        return Plan(lambda _: prompt)
    _require_messages(prompt, "prompt", where)
    template = Template(tokenizer, where, [prompt])
    return Plan(lambda texts: _without_bos(tokenizer, texts[0]), template, [template.opened(prompt)])


def render_pair(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, chosen: Text, rejected: Text, where: str = ""
) -> dict[str, str]:
    """`prompt`, `chosen`, `rejected` as text; the responses are what follows the prompt. Strings stay.

    As TRL's `apply_chat_template`, the prompt is what the rendered prompt and both whole dialogues share:
    some templates open a thought in the generation prompt that they leave out of a finished dialogue. A
    response ends without the tokenizer's EOS: whoever tokenises it adds one. Raises as `render_prompt`, and
    where only some of the three are strings.
    """
    return next(render_pairs(tokenizer, [(prompt, chosen, rejected, where)]))


def render_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Iterable[tuple[Text, Text, Text, str]]
) -> Iterator[dict[str, str]]:
    """`render_pair` of each (prompt, chosen, rejected, where), in order; many go through the template together, which
    is faster."""
    return rendered(_pair(tokenizer, *pair) for pair in pairs)


def _pair(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, chosen: Text, rejected: Text, where: str
) -> Plan[dict[str, str]]:
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        return Plan(lambda _: {"prompt": prompt, "chosen": chosen, "rejected": rejected})
    for name, value in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if not isinstance(value, str):
            _require_messages(value, name, where)
    if isinstance(prompt, str) or isinstance(chosen, str) or isinstance(rejected, str):
        raise UserError(f"{where or 'a pair'} mixes strings and message lists. Give all three in one form.")
    dialogues = [[*prompt, *response] for response in (chosen, rejected)]
    template = Template(tokenizer, where, dialogues)
    asked = [*map(template.asked, dialogues), template.opened(prompt)]
    return Plan(lambda texts: _divided(tokenizer, *texts), template, asked)


def render_dialogue(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    response: Sequence[Message],
    where: str = "",
) -> Rendered:
    """A finished dialogue, with whatever its template writes at its end; an assistant's message that the prompt leaves
    open is continued. Raises as `render_prompt`."""
    _require_messages(prompt, "prompt", where)
    _require_messages(response, "completion", where)
    dialogue = [*prompt, *response]
    if response and prompt[-1]["role"] == "assistant":
        words = prompt[-1]["content"] + response[0]["content"]
        dialogue = [*prompt[:-1], {**prompt[-1], "content": words}, *response[1:]]
    template = Template(tokenizer, where, [dialogue])
    return next(rendered([Plan(lambda texts: texts[0], template, [template.asked(dialogue)])]))


def _divided(
    tokenizer: PreTrainedTokenizerBase, chosen: Rendered, rejected: Rendered, prompt: Rendered
) -> dict[str, str]:
    """Prompt and responses of two whole dialogues and their prompt with what asks for a response."""
    whole, shared = (chosen, rejected), prompt
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
                f"the model's chat template has no variable {name!r}. Leave it out of template_options."
            )
    fixed = (f"{{% set {name} = {json.dumps(value)} %}}" for name, value in options.items())
    return "".join(fixed) + template


def common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items (characters, messages) two sequences begin with in common."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


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
