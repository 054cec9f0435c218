"""Rows in any of TRL's formats → `{"prompt", ...}` and `{"prompt", "chosen", "rejected"}`.

Text is a string ("standard") or a list of messages ("conversational", `[{"role": ..., "content": ...}]`).
A pair's prompt is a column of its own ("explicit") or the beginning that two whole dialogues share
("implicit"). Formats: https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

from typing import Any

from algos.engine.text.template import Message, Text, common_length
from eval.data.rows import RowError, as_json

ASSISTANT_MARK = "\n\nAssistant:"  # how hh-rlhf (Bai et al. 2022) opens a reply inside a dialogue


def normalise_prompt(values: dict[str, Any]) -> dict[str, Any]:
    """The row with its prompt checked, and its reference `completion` where it has one; all else is kept, `as_json`.

    A row of whole conversations (`messages`, TRL's language modeling format, and no `prompt`) is divided before the
    assistant's last turn, which is the reference. Raises `RowError` where either is missing, null or not text.
    """
    if "prompt" not in values and "messages" in values:
        values = _divided(values)
    checked: dict[str, Any] = {"prompt": _text(values, "prompt")}
    if "completion" in values:
        checked["completion"] = _text(values, "completion")
    return checked | {name: as_json(value) for name, value in values.items() if name not in checked}


def normalise_pair(values: dict[str, Any], explicit: bool) -> dict[str, Text]:
    """`prompt`, `chosen`, `rejected`: all three strings or all three message lists.

    `explicit` says that the file has a prompt column. Without one, chosen and rejected are whole dialogues
    and are split where `split_dialogues` says. Message lists and a prompt that is a string (or the other
    way round) are brought together: a prompt becomes a user's message, a response the assistant's. Raises
    `RowError` where one is missing, null, not text, or where no prompt is common to both.
    """
    prompt = _text(values, "prompt") if explicit else None
    chosen, rejected = _text(values, "chosen"), _text(values, "rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if isinstance(prompt, str):
            return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        if prompt is None:
            return _split_strings(chosen, rejected)
        chosen, rejected = [_message("assistant", chosen)], [_message("assistant", rejected)]
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise RowError("not text", "one of chosen and rejected is a string, the other a list of messages")
    if prompt is None:
        return _split_messages(chosen, rejected)
    if all(_is_reply(messages) for messages in (chosen, rejected)):
        asked = [_message("user", prompt)] if isinstance(prompt, str) else prompt
        return {"prompt": asked, "chosen": chosen, "rejected": rejected}
    return _split_messages(*_whole_dialogues(prompt, chosen, rejected))


def _divided(values: dict[str, Any]) -> dict[str, Any]:
    """The row with `prompt`, and with `completion` where the conversation ends with the assistant, for `messages`."""
    messages = _text(values, "messages")
    if isinstance(messages, str):
        raise RowError("not text", "messages is a string, not a list of messages")
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    if not end:
        raise RowError("no prompt", "messages has no turn before the assistant's")
    rest = {name: value for name, value in values.items() if name != "messages"}
    reference = {"completion": messages[end:]} if end < len(messages) else {}
    return {"prompt": messages[:end]} | reference | rest


def _text(values: dict[str, Any], name: str) -> Text:
    if name not in values:
        raise RowError("missing column", f"has no {name}")
    value = values[name]
    if isinstance(value, str):
        return value
    if value is None:
        raise RowError("null", f"{name} is null")
    if not isinstance(value, list):
        raise RowError("not text", f"{name} is {_kind(value)}, not text")
    if not value and name == "prompt":
        raise RowError("not text", "prompt is an empty list of messages")
    return [_checked_message(message, name) for message in value]


def _checked_message(message: Any, name: str) -> Message:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise RowError("not text", f'{name} is a list, but not of messages {{"role", "content"}}')
    for key in ("role", "content"):
        if message[key] is None:
            raise RowError("null", f"{name} has a message whose {key} is null")
        if not isinstance(message[key], str):
            raise RowError("not text", f"{name} has a message whose {key} is {_kind(message[key])}, not text")
    # Columnar files give every message every key that any message has: those it lacked are null.
    return {key: value for key, value in message.items() if value is not None}


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"of type {type(value).__name__}")


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _is_reply(messages: list[Message]) -> bool:
    return not messages or messages[0]["role"] == "assistant"


def _whole_dialogues(
    prompt: Text, chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message]]:
    """Chosen and rejected with the prompt in front: it may be there already (TRL's docs show such files)."""
    shared = chosen[: common_length(chosen, rejected)]
    if isinstance(prompt, str):
        if not any(message == _message("user", prompt) for message in shared):
            raise RowError("no common prompt", "chosen and rejected do not begin with the prompt")
        return chosen, rejected
    if shared[: len(prompt)] == prompt:
        return chosen, rejected
    return prompt + chosen, prompt + rejected


def _split_messages(chosen: list[Message], rejected: list[Message]) -> dict[str, Text]:
    """Two dialogues → their common messages up to the last that is not the assistant's, and the rest."""
    prompt = chosen[: common_length(chosen, rejected)]
    while prompt and prompt[-1]["role"] == "assistant":
        prompt = prompt[:-1]
    replies = [messages[len(prompt) :] for messages in (chosen, rejected)]
    if not prompt or not all(map(_is_reply, replies)):
        raise RowError("no common prompt", "chosen and rejected do not begin with the same messages")
    return {"prompt": prompt, "chosen": replies[0], "rejected": replies[1]}


def _split_strings(chosen: str, rejected: str) -> dict[str, Text]:
    """Two dialogues in the style of hh-rlhf → their common beginning up to its last "Assistant:", the rest.

    The common beginning alone would end inside the replies, wherever these begin with the same words.
    """
    shared = chosen[: common_length(chosen, rejected)]
    mark = shared.rfind(ASSISTANT_MARK)
    if mark < 0:
        detail = 'has no prompt, and chosen and rejected share no beginning that ends in "Assistant:"'
        raise RowError("no common prompt", detail)
    end = mark + len(ASSISTANT_MARK)
    return {"prompt": shared[:end], "chosen": chosen[end:], "rejected": rejected[end:]}
