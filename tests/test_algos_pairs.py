"""Pairs and prompts to token ids: what is dropped, cut or read as text is counted and said."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest
from chat_tokenizers import meant
from families import FAMILIES, WORDS
from tiny import EOS, pair, policy_with, tiny_policy, word_tokenizer

from algos import DPO, Policy, Sampling, UserError, train
from algos.engine.batches.pairs import encode_pair, encode_pairs
from algos.engine.batches.prompts import encode_prompts
from algos.engine.batches.recorded import collate
from algos.engine.text.tokens import encode


def test_bos_equal_to_eos_keeps_its_bos() -> None:
    tokenizer = word_tokenizer("a b", bos="<eos>", add_bos=True)
    assert encode(tokenizer, "a") == [EOS, 1]
    policy = policy_with(tokenizer)
    (kept,), counts = encode_pairs(policy, [pair("a", " b", " b b")], 8)
    assert (kept.prompt, kept.chosen, kept.rejected, counts) == ([EOS, 1], [2, EOS], [2, 2, EOS], {})
    rollouts = collate(policy, [kept])
    assert rollouts.mask_PGT.tolist() == [[[True, True, False], [True, True, True]]]


def test_without_a_limit_only_the_models_positions_cut() -> None:
    policy = tiny_policy()  # 32 positions
    rows = [pair("a", " b" * 20, " a"), pair("a", " b" * 40, " a")]
    (whole, cut), counts = encode_pairs(policy, rows, None)
    assert whole.chosen == [2] * 20 + [EOS]
    assert cut.chosen == [2] * 31
    assert counts == {"response truncated": 1, "longer than the model": 1}
    # A long prompt leaves room for the responses, but keeps half of the positions.
    long = " ".join(["a"] * 39 + ["b"])
    (short, half), counts = encode_pairs(
        policy, [pair(long, " b" * 9, " a"), pair(long, " b" * 40, " a")], None, "left"
    )
    assert (short.prompt, short.chosen) == ([1] * 21 + [2], [2] * 9 + [EOS])
    assert (half.prompt, half.chosen) == ([1] * 15 + [2], [2] * 16)
    assert counts == {"prompt truncated": 2, "response truncated": 1, "longer than the model": 1}


def test_training_cuts_responses_where_it_is_told_to_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "algos.engine.batches.sources")  # the command line keeps it quiet

    def roomy() -> Policy:
        model = FAMILIES["Llama, tied"].model(max_position_embeddings=128)
        return Policy(model, word_tokenizer(WORDS), dtype="fp32")

    rows = [pair("a", " b" * 70, " a"), *(pair("a", " b" * n, " a") for n in range(1, 11))]
    assert train(DPO(), roomy(), pairs=rows).counts == {}
    few = [*rows[1:], *rows[1:], pair("a", " b" * 12, " a")]
    counts = train(DPO(), tiny_policy(), pairs=few, sampling=Sampling(max_new_tokens=11)).counts
    assert (counts, caplog.messages) == ({"response truncated": 1}, [])
    counts = train(DPO(), roomy(), pairs=rows, sampling=Sampling()).counts
    assert counts == {"response truncated": 1}
    assert caplog.messages == [
        "1 of 11 pairs have a response cut at max_new_tokens=64 or the model's last position, which then has no end."
    ]


def test_many_rows_are_encoded_as_one_by_one_is_and_faulty_ones_named_in_order() -> None:
    policy = policy_with(word_tokenizer("a b user: assistant: User: Assistant:"))
    policy.tokenizer.chat_template = (
        "{% if messages[0]['content'] == 'no' %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %} {{ m['role'] }}: {{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %} assistant:{% endif %}"
    )

    def chat(asked: str, chosen: str) -> dict[str, Any]:
        said = {"prompt": ("user", asked), "chosen": ("assistant", chosen), "rejected": ("assistant", "a")}
        return {name: [{"role": role, "content": text}] for name, (role, text) in said.items()}

    rows: list[dict[str, Any]] = [
        chat("a b", "b " * (i % 5)) if i % 3 else pair("a", " b" * (i % 7), " a") for i in range(40)
    ]
    together, counts = encode_pairs(policy, rows, 4)
    each = [encode_pair(policy, row, 4) for row in rows]
    assert together == [found for found, _ in each if found is not None]
    assert counts == Counter(reason for _, reasons in each for reason in reasons)
    faulty: list[Any] = [*rows[:5], chat("no", "b"), *rows[5:8], {"prompt": "a"}, *rows[8:]]
    with pytest.raises(UserError, match=r"^rows\[5\]: the model's chat template refuses"):
        encode_pairs(policy, faulty, 4, where="rows")
    with pytest.raises(UserError, match=r"^rows\[8\] has no chosen"):
        encode_pairs(policy, [*faulty[:5], *faulty[6:]], 4, where="rows")


def test_the_text_of_special_tokens_is_counted_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """As where strings went through a chat template before: what it wrote is characters then."""
    caplog.set_level(logging.WARNING, "algos.engine.batches.sources")  # the command line keeps it quiet
    said = "text of a special token, which stays text"
    policy = tiny_policy()
    rows = [
        pair("a", " b", " a"),
        pair("a <eos>", " b", " a"),
        pair("a", " b<eos>", " b"),
        pair("a <eos>", " b", " b"),
    ]
    assert encode_pairs(policy, rows, 8)[1] == {said: 2, "identical responses": 1}
    assert encode_pairs(policy, [pair("a", meant(" b <eos>"), " a")], 8)[1] == {}
    assert encode_prompts(policy, [*rows, "b <eos> a"], 8)[1] == {said: 3}
    train(DPO(), policy, pairs=rows)
    (message,) = caplog.messages
    assert message.startswith("2 of 3 pairs hold the text of special tokens, which is read as characters.")
    assert "lists of messages" in message


def test_what_teaches_nothing_is_dropped_and_counted() -> None:
    rows = [
        pair("a", " b", " b"),
        pair("a", "", " b"),
        pair("a", " b", ""),
        pair("a", " a b a", " a b b"),
        pair(" ".join(["a"] * 32), " b", " a"),
        pair("a", " b", " a"),
    ]
    kept, counts = encode_pairs(tiny_policy(), rows, 2)
    assert len(kept) == 1
    assert counts == {
        "identical responses": 1, "empty response": 2, "identical once truncated": 1, "prompt too long": 1
    }  # fmt: skip


def test_a_long_prompt_leaves_what_room_there_is() -> None:
    """32 positions: 30 of prompt leave 2 of response."""
    (kept,), counts = encode_pairs(tiny_policy(), [pair(" ".join(["a"] * 30), " b b b", " a")], 8)
    assert (kept.chosen, kept.rejected, counts) == (
        [2, 2],
        [1, EOS],
        {"response truncated": 1, "longer than the model": 1},
    )


def test_a_long_prompt_is_cut_as_where_responses_are_sampled() -> None:
    policy = tiny_policy()
    row = pair(" ".join(["a"] * 29 + ["b"]), " b", " a b")
    (cut,), counts = encode_pairs(policy, [row], 8, "left")
    (sampled,), _ = encode_prompts(policy, [row], 8, "left")
    assert cut.prompt == sampled.ids == [1] * 23 + [2]
    assert (cut.chosen, cut.rejected) == ([2, EOS], [1, 2, EOS])
    assert counts == {"prompt truncated": 1}
    assert "prompt truncated" not in encode_pairs(policy, [row], 8)[1]


def test_prompts_that_do_not_fit_are_dropped_or_cut_and_counted() -> None:
    policy = tiny_policy()
    long = " ".join(["a"] * 29 + ["b"])
    kept, counts = encode_prompts(policy, ["a b", long, ""], 8)
    assert ([p.ids for p in kept], counts) == ([[1, 2]], {"prompt too long": 1, "prompt has no tokens": 1})
    kept, counts = encode_prompts(policy, ["a b", long], 8, "left")
    assert counts == {"prompt truncated": 1}
    assert kept[1].ids == [1] * 23 + [2]  # its end, in the 24 positions that are left
    assert kept[0].row == {"prompt": "a b"}
    with pytest.raises(UserError, match="32 positions and max_new_tokens is 32"):
        encode_prompts(policy, ["a"], 32)
