"""From any of TRL's formats to prompt, chosen and rejected; what is none of them is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from eval.data.normalise import normalise_pair, normalise_prompt
from eval.data.rows import RowError

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def bot(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def test_whole_conversations_are_divided_before_the_last_turn_of_the_assistant() -> None:
    asked = [user("a"), bot("b"), user("c")]
    whole = {"messages": [*asked, bot("d")], "topic": "x"}
    assert normalise_prompt(whole) == {"prompt": asked, "completion": [bot("d")], "topic": "x"}
    assert normalise_prompt({"messages": asked}) == {"prompt": asked}
    beside = {"prompt": "p", "messages": asked}
    assert normalise_prompt(beside) == beside
    for messages, told in (([bot("a")], "no turn before"), ("user: a", "not a list"), ([], "no turn before")):
        with pytest.raises(RowError, match=told):
            normalise_prompt({"messages": messages})


def test_standard_and_conversational_pairs_pass_unchanged() -> None:
    talk = {"prompt": [user("p")], "chosen": [bot("good")], "rejected": [bot("bad")]}
    assert normalise_pair({**PAIR, "score": 1}, explicit=True) == PAIR
    assert normalise_pair(talk, explicit=True) == talk


def test_implicit_message_lists_are_split_at_the_last_common_question() -> None:
    shared = [{"role": "system", "content": "s"}, user("p"), bot("hm"), user("q")]
    split = normalise_pair({"chosen": [*shared, bot("x")], "rejected": [*shared, bot("y")]}, explicit=False)
    assert split == {"prompt": shared, "chosen": [bot("x")], "rejected": [bot("y")]}
    # A reply that both share is no prompt: what is judged begins with it.
    longer = [user("p"), bot("x"), user("more"), bot("z")]
    split = normalise_pair({"chosen": longer, "rejected": longer[:2]}, explicit=False)
    assert split == {"prompt": [user("p")], "chosen": longer[1:], "rejected": [bot("x")]}


def test_implicit_dialogues_are_split_after_the_last_common_assistant_mark() -> None:
    shared = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why?\n\nAssistant:"
    split = normalise_pair(
        {"chosen": shared + " Because of A", "rejected": shared + " Because of B"}, explicit=False
    )
    assert split == {"prompt": shared, "chosen": " Because of A", "rejected": " Because of B"}
    split = normalise_pair({"chosen": shared, "rejected": shared + " x"}, explicit=False)
    assert (split["prompt"], split["chosen"]) == (shared, "")


@pytest.mark.parametrize("prompt", ["p", [user("p")]])
def test_whole_dialogues_beside_a_prompt_column_lose_it_once(prompt: Any) -> None:
    row = {"prompt": prompt, "chosen": [user("p"), bot("x")], "rejected": [user("p"), bot("y")]}
    expected = {"prompt": [user("p")], "chosen": [bot("x")], "rejected": [bot("y")]}
    assert normalise_pair(row, explicit=True) == expected


def test_strings_and_message_lists_are_brought_together() -> None:
    expected = {"prompt": [user("p")], "chosen": [bot("x")], "rejected": [bot("y")]}
    mixed = {"prompt": "p", "chosen": [bot("x")], "rejected": [bot("y")]}
    assert normalise_pair(mixed, explicit=True) == expected
    mixed = {"prompt": [user("p")], "chosen": "x", "rejected": "y"}
    assert normalise_pair(mixed, explicit=True) == expected


def test_messages_lose_only_the_keys_that_a_columnar_file_left_null() -> None:
    message = {**user("p"), "name": None, "tool": "t"}
    assert normalise_prompt({"prompt": [message]})["prompt"] == [{**user("p"), "tool": "t"}]


def test_prompts_keep_their_other_columns() -> None:
    row = {"prompt": "p", "completion": "c", "answer": 3, "note": None}
    assert normalise_prompt(row) == row


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"chosen": None}, "null", "chosen is null"),
        ({"chosen": 3}, "not text", "chosen is a number"),
        ({"rejected": 0.5}, "not text", "rejected is a number"),
        ({"prompt": True}, "not text", "prompt is a boolean"),
        ({"prompt": {"a": 1}}, "not text", "prompt is an object"),
        ({"prompt": []}, "not text", "empty list"),
        ({"prompt": ["a"]}, "not text", "not of messages"),
        ({"prompt": [{"role": "user"}]}, "not text", "not of messages"),
        ({"prompt": [{"role": "user", "content": None}]}, "null", "content is null"),
        ({"prompt": [{"role": 1, "content": "a"}]}, "not text", "role is a number"),
        ({"chosen": [bot("x")]}, "not text", "the other a list"),
        ({"chosen": [user("q"), bot("x")], "rejected": [user("q"), bot("y")]}, "no common prompt", "begin"),
    ],
)
def test_malformed_pairs_are_refused_by_reason(change: dict[str, Any], reason: str, detail: str) -> None:
    with pytest.raises(RowError) as caught:
        normalise_pair({**PAIR, **change}, explicit=True)
    assert caught.value.reason == reason
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": "The fox ran", "rejected": "The fox sat"},
        {"chosen": [user("p"), bot("x")], "rejected": [user("other"), bot("y")]},
        {"chosen": [user("p")], "rejected": [user("p"), user("q"), bot("y")]},
        {"chosen": [], "rejected": [user("p"), bot("y")]},
    ],
)
def test_dialogues_without_a_common_prompt_are_refused(row: dict[str, Any]) -> None:
    with pytest.raises(RowError) as caught:
        normalise_pair(row, explicit=False)
    assert caught.value.reason == "no common prompt"
